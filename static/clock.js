// The service's time, whatever this machine's clock says, and how long a guest has
// waited by it.

/**
 * From how many ms on a ticket shows that it has waited. A new one every four
 * seconds leaves each about three quarters of a minute among the last twelve.
 */
const STAGES = [
  ["late", 30_000],
  ["aging", 15_000],
  ["fresh", 0],
];

export class Clock {
  #ahead = 0;

  /** The time in ms since the epoch. */
  now() {
    return Date.now() + this.#ahead;
  }

  /**
   * Takes the `Date` header of an answer that has just come, to a question of the
   * moment `asked` (by this machine). It tells a second, and not when in between
   * it was written, so this only changes what contradicts it.
   */
  hear(date, asked) {
    const least = Date.parse(date) - Date.now();
    const most = Date.parse(date) + 1000 - asked;
    if (this.#ahead < least || this.#ahead > most) this.#ahead = (least + most) / 2;
  }
}

/** The one that the page goes by. */
export const clock = new Clock();

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
