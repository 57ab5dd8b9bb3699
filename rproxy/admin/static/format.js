// Numbers, times and sizes as people read them. Everything unknown is an en dash.

const NONE = "–";
const grouped = new Intl.NumberFormat("en-GB");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("sv-SE"); // as 2026-11-26
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

/** A count: all digits up to 99,999, then three of them with k, M or G. */
export function count(value) {
  if (value == null) return NONE;
  if (value < 1e5) return grouped.format(Math.round(value));
  return scaled(value, 1000, ["", "k", "M", "G", "T"]);
}

/** Bytes, in powers of 1,000 as network figures are. */
export function bytes(value) {
  return value == null ? NONE : scaled(value, 1000, [" B", " kB", " MB", " GB", " TB", " PB"]);
}

function scaled(value, step, units) {
  let unit = 0;
  while (value >= step && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  return (unit && value < 99.95 ? value.toFixed(1) : Math.round(value)) + units[unit];
}

/** Three significant digits, never in scientific notation. */
export function significant(value) {
  if (value == null) return NONE;
  const size = Math.abs(value);
  if (size >= 1e5) return count(value);
  if (size >= 100) return grouped.format(Math.round(value));
  if (size >= 10) return value.toFixed(1);
  return value.toFixed(size >= 0.01 || !size ? 2 : 3);
}

export function milliseconds(value) {
  if (value == null) return NONE;
  return value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : grouped.format(Math.round(value));
}

/** A fraction as a percentage, without the sign. */
export function percentage(fraction) {
  if (fraction == null) return NONE;
  return fraction && fraction < 0.1 ? (100 * fraction).toFixed(1) : String(Math.round(100 * fraction));
}

/** Events per second. */
export function rate(value) {
  if (value == null) return NONE;
  return value < 9.95 ? value.toFixed(1) : count(value);
}

/** Seconds in the two largest units. */
export function duration(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = Math.round(seconds);
  const parts = [];
  for (const [name, size] of units) {
    if (rest >= size || (parts.length && name !== "s" && rest)) {
      const whole = Math.floor(rest / size);
      if (whole) parts.push(`${whole} ${name}`);
      rest -= whole * size;
      if (parts.length === 2) break;
    } else if (parts.length) break;
  }
  return parts.join(" ") || "0 s";
}

/** The time of day of a Unix time. */
export const timeOfDay = (unix) => clock.format(new Date(unix * 1000));

/** The time of day of a Unix time, or its date if that is not today's. */
export function timeSince(unix) {
  const then = new Date(unix * 1000);
  return then.toDateString() === new Date().toDateString() ? clock.format(then) : day.format(then);
}

/** Date, time and zone of a Unix time. */
export const dateAndTime = (unix) => moment.format(new Date(unix * 1000));

/** address:port as the proxy writes it. */
export function nameOf(row) {
  return row.address.includes(":") ? `[${row.address}]:${row.port}` : `${row.address}:${row.port}`;
}
