// Prometheus' text format, as far as a page needs it: a map from a metric's name to its samples.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** Samples by name: [{labels, value}]. */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return found;
}

const key = ({ labels }) => JSON.stringify(Object.entries(labels).sort());

/** What counters rose by from `before` to `after`; a process that began anew counts from 0. */
export function delta(after, before) {
  const risen = new Map();
  for (const [name, samples] of after) {
    const old = new Map((before.get(name) ?? []).map((sample) => [key(sample), sample.value]));
    risen.set(name, samples.map((sample) => {
      const was = old.get(key(sample)) ?? 0;
      return { ...sample, value: sample.value >= was ? sample.value - was : sample.value };
    }));
  }
  return risen;
}

/** The sum of a metric's samples that have these labels. */
export function total(found, name, labels = {}) {
  const wanted = Object.entries(labels);
  return (found.get(name) ?? [])
    .filter((sample) => wanted.every(([label, value]) => sample.labels[label] === value))
    .reduce((sum, sample) => sum + sample.value, 0);
}

/** A quantile of histogram buckets, interpolated as Prometheus does it; null where nothing was counted. */
export function quantile(buckets, share) {
  const counts = new Map();
  for (const { labels, value } of buckets) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  const bounds = [...counts.keys()].sort((a, b) => a - b);
  const all = counts.get(Infinity) ?? 0;
  if (!all) return null;
  let below = 0;
  let from = 0;
  for (const bound of bounds) {
    const within = counts.get(bound);
    if (within >= share * all) {
      if (bound === Infinity) return from;
      return from + (bound - from) * ((share * all - below) / Math.max(within - below, Number.EPSILON));
    }
    [below, from] = [within, bound];
  }
  return from;
}
