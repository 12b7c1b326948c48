// The last ten minutes of each server, as the servers keep them. Kept here between pages, so that a plot is there at once.

import { ask } from "./api.js";

/** Samples of each server that are kept, as at the server. */
const KEPT = 300;
/** Places of a plot of a server that has just begun. */
const FEWEST = 30;
/** Samples over which times are taken together: ten seconds. */
const WINDOW = 5;

let step = 2000;
let bounds = [];
/** By server: whether it has clients, and its samples by number of the step. */
let servers = new Map();
/** Servers that did not answer the last time. */
let missing = new Set();

export const stepMs = () => step;
export const timeBounds = () => bounds;

export function forget() {
  servers = new Map();
  missing = new Set();
}

/** Fetches what is new. */
export async function refresh(signal) {
  // A server that keeps no samples, or does not answer, has nothing that the others' samples wait for.
  const newest = [...servers].filter(([id, { last }]) => last >= 0 && !missing.has(id)).map(([, { last }]) => last * step);
  const known = newest.length > 0 ? Math.min(...newest) : 0;
  const report = await ask("api/cluster/load", { query: { after_ms: Math.max(0, known) }, signal });
  step = report.step_ms;
  const there = new Set(report.servers.map(({ id }) => id));
  const silent = new Set(report.unanswered.map(({ server }) => server));
  // One that is back has samples before those that the others were asked for: the next time all are asked for.
  const isBack = [...missing].some((id) => there.has(id));
  missing = silent;
  for (const id of servers.keys()) {
    if (!there.has(id) && !silent.has(id)) servers.delete(id);
  }
  for (const { id, frontend, series } of report.servers) add(id, frontend, series);
  return isBack ? refreshAll(signal) : report;
}

async function refreshAll(signal) {
  const report = await ask("api/cluster/load", { query: { after_ms: 0 }, signal });
  for (const { id, frontend, series } of report.servers) add(id, frontend, series);
  return report;
}

function add(id, frontend, series) {
  if (series.bounds_us.length > 0) bounds = series.bounds_us;
  const server = servers.get(id) ?? { frontend, samples: new Map(), last: -1 };
  servers.set(id, server);
  series.rows.forEach((row, i) => {
    const sample = Object.fromEntries(series.columns.map((name, place) => [name, row[place]]));
    sample.answers = series.answers[i];
    const slot = Math.round(sample.time_ms / step);
    server.samples.set(slot, sample);
    server.last = slot;
  });
  for (const slot of server.samples.keys()) {
    if (slot <= server.last - KEPT) server.samples.delete(slot);
  }
}

export const frontends = () => [...servers].filter(([, { frontend }]) => frontend).map(([id]) => id);
export const all = () => [...servers.keys()];

/** The steps that a plot shows: a place for each, the newest last. */
function slots(ids) {
  const lasts = ids.map((id) => servers.get(id)?.last ?? -1).filter((last) => last >= 0);
  if (lasts.length === 0) return [];
  const end = Math.max(...lasts);
  const first = Math.min(...ids.flatMap((id) => [...(servers.get(id)?.samples.keys() ?? [])]));
  const length = Math.min(KEPT, Math.max(FEWEST, end - first + 1));
  return Array.from({ length }, (_, i) => end - length + 1 + i);
}

/** The sample of a server for a step, or the one before it: servers do not take theirs at the same moment. */
const sampleAt = (id, slot) => {
  const samples = servers.get(id)?.samples;
  return samples?.get(slot) ?? samples?.get(slot - 1);
};

function summed(ids, value) {
  return slots(ids).map((slot) => {
    const samples = ids.map((id) => sampleAt(id, slot)).filter(Boolean);
    return samples.length === 0 ? null : samples.reduce((sum, sample) => sum + value(sample), 0);
  });
}

/** What there is at a time, all servers together. */
export const level = (ids, name) => summed(ids, (sample) => sample[name]);

/** What comes in a second. */
export const perSecond = (ids, name) => summed(ids, (sample) => (sample[name] * 1000) / sample.span_ms);

/** The time within which a share of the requests were answered, in microseconds; null where there were none. */
export function quantiles(ids, share) {
  return slots(ids).map((slot) => {
    const sums = [];
    for (let back = 0; back < WINDOW; back++) {
      for (const id of ids) {
        servers.get(id)?.samples.get(slot - back)?.answers.forEach((n, place) => {
          sums[place] = (sums[place] ?? 0) + n;
        });
      }
    }
    return quantile(sums, bounds, share);
  });
}

/** From counts by upper bound; within a bucket the times are taken as spread evenly. */
export function quantile(counts, limits, share) {
  const total = counts.reduce((sum, n) => sum + n, 0);
  if (total === 0) return null;
  let left = share * total;
  for (let place = 0; place < counts.length; place++) {
    if (counts[place] > 0 && left <= counts[place]) {
      const low = place === 0 ? 0 : limits[place - 1];
      const high = limits[place] ?? low;
      return low + ((high - low) * left) / counts[place];
    }
    left -= counts[place];
  }
  return limits.at(-1);
}

/** The newest sample of a server, if it is one of the last three steps of all. */
export function now(id) {
  const server = servers.get(id);
  const newest = Math.max(...[...servers.values()].map(({ last }) => last));
  return server && server.last >= newest - 2 ? server.samples.get(server.last) : undefined;
}
