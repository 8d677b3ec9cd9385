// The way of an order through the kitchen: which status may follow which. The
// component decides; this knows what it will say, and what came after what.

/** What each status may become, the usual first. */
const STEPS = {
  received: ["fired", "cancelled"],
  fired: ["fulfilled", "cancelled"],
  fulfilled: [],
  cancelled: [],
};

/** How far along each status is: on its way an order only ever gets further. */
const RANK = { received: 0, fired: 1, fulfilled: 2, cancelled: 2 };

/** Whether an order can go from one status to another in one step. */
export function canBecome(from, to) {
  return STEPS[from]?.includes(to) ?? false;
}

/** The step onwards from a status; null at the end. */
export function onwards(status) {
  return STEPS[status]?.[0] ?? null;
}

/**
 * Whether news of `status` is later than `known`. News may overtake each other
 * on the way, and what was fetched may be older than what was heard meanwhile.
 */
export function isLater(status, known) {
  return (RANK[status] ?? 0) > (RANK[known] ?? 0);
}

/** Whether nothing more happens to an order. */
export function isDone(status) {
  return onwards(status) === null;
}
