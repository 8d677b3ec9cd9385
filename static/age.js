// How long a guest has waited, and how that looks.

/** From how many ms on a ticket shows that it has waited. */
const STAGES = [
  ["late", 120_000],
  ["aging", 45_000],
  ["fresh", 0],
];

/** `stage` of an age in ms. */
export function stage(age) {
  return STAGES.find(([, from]) => age >= from)?.[0] ?? "fresh";
}

/** An age in ms as `0:42`, `12:05` or `1 h 05`; what is to come is `0:00`. */
export function readable(age) {
  const seconds = Math.max(0, Math.floor(age / 1000));
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}:${two(seconds % 60)}`;
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)}`;
}

function two(number) {
  return String(number).padStart(2, "0");
}
