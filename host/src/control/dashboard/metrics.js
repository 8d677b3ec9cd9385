// Reads metrics in the OpenMetrics text format.

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Returns the samples of a text by their names, each with its labels and value. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    if (!match) continue;
    const [, name, labels = "", value] = match;
    const sample = {
      labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, label, text]) => [label, text])),
      value: Number(value),
    };
    if (samples.has(name)) samples.get(name).push(sample);
    else samples.set(name, [sample]);
  }
  return samples;
}

/** Returns the sum of the samples of a metric whose labels are accepted. */
export function sum(samples, name, accept = () => true) {
  let total = 0;
  for (const { labels, value } of samples.get(`socket_host_${name}`) ?? []) if (accept(labels)) total += value;
  return total;
}

/** Returns the cumulative counts of a histogram, by the upper bound of the bucket. */
export function buckets(samples, name) {
  const counts = new Map();
  for (const { labels, value } of samples.get(`socket_host_${name}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** Returns a quantile of what a histogram has counted since `before`, or undefined if that is nothing. */
export function quantile(now, before, fraction) {
  const earlier = new Map(before);
  const counts = now.map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (!(total > 0)) return undefined;
  const rank = fraction * total;
  let [lower, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= rank) {
      if (bound === Infinity) return lower;
      return lower + ((bound - lower) * (rank - below)) / (count - below);
    }
    [lower, below] = [bound, count];
  }
  return lower;
}
