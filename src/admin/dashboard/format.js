// Values as people read them.

/// Whole numbers with their digits in groups. Takes text as well: what may exceed 2^53 is never made a number.
export const grouped = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ",");

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/// A rate or an amount, to about three digits.
export function amount(value) {
  if (value >= 10_000) return compact.format(value);
  if (value >= 100 || Number.isInteger(value)) return grouped(Math.round(value));
  return value.toFixed(value >= 10 ? 1 : 2);
}

/// Milliseconds, in the unit that suits them.
export function latency(ms) {
  if (ms === 0) return "0 ms";
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 10) return `${Math.round(ms)} ms`;
  return `${ms.toFixed(ms >= 1 ? 1 : 2)} ms`;
}

const UNITS = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
  ["s", 1],
];

/// Seconds as their two largest units.
export function duration(seconds) {
  if (seconds < 1) return "< 1 s";
  if (seconds >= 1000 * 86_400) return "> 1000 d";
  let rest = Math.floor(seconds);
  const parts = [];
  for (const [unit, length] of UNITS) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count > 0) parts.push(`${count}\u00a0${unit}`);
    else if (parts.length > 0) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

export const ago = (seconds) => (seconds < 1 ? "just now" : `${duration(seconds)}\u00a0ago`);

/// The time of day of a moment in milliseconds since 1970.
export const timeOfDay = (ms) => new Date(ms).toLocaleTimeString("en-GB");
