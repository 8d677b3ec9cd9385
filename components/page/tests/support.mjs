// What the tests share.

/** An order as the service sends it, as far as the modules look. */
export const order = (id, status = "received", timestamp = `t${id}`) => ({ id, timestamp, status });

/** Lets everything that is ready happen. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));
