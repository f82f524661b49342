/** Format: figures as short texts. */

const NONE = "–";

/** A count with separators: 12,345. */
export function count(value) {
  return value === null || value === undefined ? NONE : Math.round(value).toLocaleString("en-US");
}

/** A short number of three digits: 0.5, 12.3, 1.24k, 56M. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= limit * 0.9995) return `${digits(value / limit)}${unit}`;
  }
  return size < 0.01 ? "<0.01" : digits(value);
}

function digits(value) {
  const size = Math.abs(value);
  const places = size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return String(Number(value.toFixed(places)));
}

/** A rate: 12.3/s. */
export function rate(value) {
  return value === null || value === undefined ? NONE : `${short(value)}/s`;
}

/** Bytes: 12.3 MiB. */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  for (const [exponent, unit] of [[4, "TiB"], [3, "GiB"], [2, "MiB"], [1, "KiB"]]) {
    const size = 1024 ** exponent;
    if (value >= size * 0.9995) return `${digits(value / size)} ${unit}`;
  }
  return `${Math.round(value)} B`;
}

/** Bytes per second. */
export function byteRate(value) {
  return value === null || value === undefined ? NONE : `${bytes(value)}/s`;
}

/** A latency in seconds: 0.4 ms, 12 ms, 1.2 s. */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds >= 1) return `${digits(seconds)} s`;
  const millis = seconds * 1000;
  if (millis === 0) return "0 ms";
  return millis < 0.01 ? "<0.01 ms" : `${digits(millis)} ms`;
}

/** A share of one processor: 35%. */
export function percent(share) {
  return share === null || share === undefined ? NONE : `${digits(share * 100)}%`;
}

/** A duration in seconds: 3d 4h, 2h 5m, 1m 20s, 4.2 s. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 60) return seconds < 10 ? `${digits(seconds)} s` : `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  const [days, hours] = [Math.floor(whole / 86_400), Math.floor(whole / 3600) % 24];
  const [minutes, rest] = [Math.floor(whole / 60) % 60, whole % 60];
  if (days > 0) return `${days}d ${hours}h`;
  if (hours > 0) return `${hours}h ${minutes}m`;
  return `${minutes}m ${rest}s`;
}

/** The time of day of an instant, in the visitor's time zone. */
export function clock(instant) {
  return new Date(instant).toLocaleTimeString("en-GB");
}

/** Date and time of an instant, in the visitor's time zone. */
export function dateTime(instant) {
  return new Date(instant).toLocaleString("en-GB");
}

/** `1 group`, `2 groups`. */
export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

export function sum(counts) {
  return Object.values(counts ?? {}).reduce((all, one) => all + one, 0);
}
