/**
 * First tokens by region of the caller, at several round trips between regions. Requests arrive whether or not earlier ones are
 * answered, at the same times in every mode, so that each mode loads the machine equally. Edges take turns, in rounds whose order
 * alternates.
 */
import { Agent } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { type Region, regions } from "../../../../edge/platform/region.ts";
import { seededRandom } from "../../../support/steps.ts";
import { quantile } from "../../quantile.ts";
import { timed, type Way } from "../first-token.ts";
import { key, type RegionalEdge, startRegionalEdge } from "./regional-edge.ts";
import {
  type CallRow,
  type ColdRow,
  callLine,
  coldLines,
  overBoundLine,
  type RegionRow,
  regionLines,
  rowsOverBound,
} from "./report.ts";
import { beforeFirstToken, type Event, firstToken, home, regionHeader } from "./world.ts";

interface MeasuredEdge {
  system: string;
  edge: RegionalEdge;
}

export interface RegionsOptions {
  bodies: string[];
  rounds: number;
  requestsPerRound: number;
}

/** 0 is the reference and must be first. */
const roundTripsMs = [0, 50, 150];
/** Six regions have none. */
const backendRegions: readonly Region[] = ["wnam", "weur", "apac"];
/** Of each region: so few that two cores are idle most of the time. */
const requestsPerSecond = 4;

/** The first of `folders` is judged, the others are measured beside it. */
export async function compareRegions(
  folders: readonly string[],
  options: RegionsOptions,
): Promise<{ rows: object[]; lines: string[]; losing: string[] }> {
  const edges: MeasuredEdge[] = [];
  const agent = new Agent({ keepAlive: true });
  try {
    for (const [i, folder] of folders.entries()) {
      const system = i === 0 ? "this edge" : "other edge";
      edges.push({ system, edge: await startRegionalEdge(folder, backendRegions) });
    }
    const cold: ColdRow[] = [];
    for (const one of edges) cold.push(...(await firstRequests(one, options, agent)));
    const { rows, calls } = await measureRounds(edges, options, agent);
    return {
      rows: [...cold, ...rows, ...calls],
      lines: [
        `backends in ${backendRegions.join(", ")}; objects without a region of their own in ${home}; KV, R2 and assets at hand`,
        ...coldLines(cold),
        ...regionLines(rows),
        ...calls.map(callLine),
      ],
      losing: rowsOverBound(rows, "this edge").map((row) => overBoundLine(row, rows)),
    };
  } finally {
    agent.destroy();
    for (const { edge } of edges) await edge.stop();
  }
}

async function measureRounds(
  edges: readonly MeasuredEdge[],
  options: RegionsOptions,
  agent: Agent,
): Promise<{ rows: RegionRow[]; calls: CallRow[] }> {
  const series = roundTripsMs.flatMap((roundTripMs) =>
    edges.map((measuredEdge) => ({ measuredEdge, roundTripMs, waits: noWaits() })),
  );
  const events = new Map<MeasuredEdge, Event[]>(edges.map((one) => [one, []]));
  // One round more, which is not counted: code is compiled, connections open.
  for (let round = -1; round < options.rounds; round++) {
    for (const { measuredEdge, roundTripMs, waits } of round % 2 === 0 ? series : series.toReversed()) {
      await measuredEdge.edge.control(roundTripMs);
      const measured = await oneRound(measuredEdge, round, options, agent);
      const happened = await measuredEdge.edge.control(roundTripMs);
      if (round < 0) continue;
      for (const region of regions) waits[region].push(...measured[region]);
      events.get(measuredEdge)!.push(...happened);
    }
  }
  const rows = series.flatMap(({ measuredEdge: { system }, roundTripMs, waits }) =>
    regions.map((region): RegionRow => {
      const toBackendMs = backendRegions.includes(region) ? 0 : roundTripMs;
      return { kind: "region", system, roundTripMs, region, toBackendMs, ...summary(waits[region]) };
    }),
  );
  return { rows, calls: [...events].flatMap(([{ system }, happened]) => callRows(system, happened)) };
}

/** Calls to other regions that each region's first request waits for. */
async function firstRequests(one: MeasuredEdge, { bodies }: RegionsOptions, agent: Agent): Promise<ColdRow[]> {
  const rows: ColdRow[] = [];
  for (const [i, region] of regions.entries()) {
    await one.edge.control(0);
    await timed(wayFrom(region, one, bodies), i, agent);
    const waited = beforeFirstToken(await one.edge.control(0), region);
    const farCalls = waited.filter(({ to }) => to !== region).map(({ what }) => what);
    rows.push({ kind: "cold", system: one.system, region, farCalls });
  }
  return rows;
}

function wayFrom(region: Region, { system, edge }: MeasuredEdge, bodies: string[]): Way {
  const headers = { authorization: `Bearer ${key}`, [regionHeader]: region };
  return { system, url: `${edge.url}/v1/completions`, headers, bodies, firstToken: "data: {" };
}

async function oneRound(
  measuredEdge: MeasuredEdge,
  round: number,
  { bodies, requestsPerRound }: RegionsOptions,
  agent: Agent,
): Promise<Record<Region, number[]>> {
  const waits = noWaits();
  const tasks = regions.flatMap((region, r) => {
    const way = wayFrom(region, measuredEdge, bodies);
    const random = seededRandom((round + 1) * regions.length + r);
    let dueMs = 0;
    return Array.from({ length: Math.ceil(requestsPerRound / regions.length) }, async (_, i) => {
      dueMs -= (1000 / requestsPerSecond) * Math.log(1 - random());
      await sleep(dueMs);
      waits[region].push((await timed(way, i * regions.length + r + round * 7, agent)).firstMs);
    });
  });
  await Promise.all(tasks);
  return waits;
}

function noWaits(): Record<Region, number[]> {
  return Object.fromEntries(regions.map((region) => [region, []])) as unknown as Record<Region, number[]>;
}

/** The interval holds the median in 95 of 100 such measurements, whatever the distribution: by the ranks of the samples. */
function summary(waits: readonly number[]) {
  const halfWidth = 0.98 / Math.sqrt(waits.length);
  return {
    requests: waits.length,
    p50Ms: quantile(waits, 0.5),
    p50LowMs: quantile(waits, Math.max(0, 0.5 - halfWidth)),
    p50HighMs: quantile(waits, 0.5 + halfWidth),
    p99Ms: quantile(waits, 0.99),
  };
}

function callRows(system: string, events: readonly Event[]): CallRow[] {
  const answered = events.filter(({ what }) => what === firstToken).length;
  const calls = events.filter(({ what }) => what !== firstToken);
  return [...Map.groupBy(calls, ({ what }) => what)].map(([what, ofIt]) => {
    const far = ofIt.filter(({ from, to }) => from !== to).length;
    return { kind: "calls", system, what, near: (ofIt.length - far) / answered, far: far / answered };
  });
}
