// Helpers of the tests.

/** An order with the fields that the modules use. */
export const order = (id, status = "received", timestamp = `t${id}`) => ({ id, timestamp, status });

/** Runs all pending promise callbacks. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));
