/**
 * The whole way of a request, simulated: city → Worker → the region's ledger → the tenant's cell → micro-batch → backend →
 * first token → client's city. Decisions are the product's own code: regionOf, cellsOf, MicroBatcher, Router, plan.
 */
import type { BackendAddress } from "../../../edge/backend/addresses.ts";
import { roundTripMs } from "../../../edge/backend/round-trips.ts";
import { cellsOf } from "../../../edge/cells/cell-names.ts";
import { type Region, regions } from "../../../edge/platform/region.ts";
import { quantile } from "../quantile.ts";
import { type BackendLimits, queueFreePrefillMs, SimulatedBackend, type StepTimes } from "./backend.ts";
import { type CellTimes, SimulatedCell } from "./cell.ts";
import { EventQueue } from "./events.ts";
import { cityRoundTripMs } from "./network.ts";
import { type City, createTraffic, type TrafficSize } from "./traffic.ts";

export interface WorldOptions {
  requestsPerSecond: number;
  /** Simulated time that is measured; as much as `warmUpSeconds` runs before and is not. */
  seconds: number;
  warmUpSeconds: number;
  backends: number;
  cellsPerRegion: number;
  traffic: TrafficSize;
  stepTimes: StepTimes;
  cellTimes: CellTimes;
  workerMs: number;
  limits: BackendLimits;
  /** Its backends are lost in the middle of the measured time; null: none. */
  lostRegion: Region | null;
}

export interface RegionRow {
  region: Region;
  backends: number;
  requests: number;
  /** First token in milliseconds, from the request's arrival at the platform to the token's departure to the client. */
  p50: number;
  p99: number;
  /** The same without any queue: the way, and the prompt's steps alone. */
  freeP50: number;
  freeP99: number;
  failed: number;
  /** Of the region's backends: the time that their tokens take in full steps, as part of all time. */
  utilisation: number;
  /** Requests a second of its busiest cell, and the part of the time in which that cell's thread was busy. */
  busiestCell: number;
  busiestCellUse: number;
}

export interface WorldResult {
  rows: RegionRow[];
  requests: number;
  failed: number;
  /** Of sequences that ended in the measured time. */
  tokens: number;
  /** Requests a micro-batch. */
  meanBatch: number;
  /** Calls to backends a request, those that are refused or sent again included. */
  callsPerRequest: number;
  steps: number;
  cells: number;
  /** Requests a second of the busiest ledger: of a tenant in a region. */
  busiestLedger: number;
  /** Requests that came after the loss of a region, of each region's callers; null where none was lost. */
  afterLoss: AfterLoss[] | null;
}

/** First tokens in milliseconds, as in RegionRow. */
export interface AfterLoss {
  region: Region;
  requests: number;
  failed: number;
  p50: number;
  p99: number;
  freeP50: number;
  freeP99: number;
}

interface Sample {
  atMs: number;
  firstTokenMs: number;
  freeMs: number;
}

export function simulate(cities: readonly City[], options: WorldOptions, random: () => number): WorldResult {
  const events = new EventQueue();
  const { seconds, warmUpSeconds, stepTimes, limits, lostRegion } = options;
  const [fromMs, untilMs] = [warmUpSeconds * 1000, (warmUpSeconds + seconds) * 1000];
  const placed = placeBackends(cities, options.backends);
  const backends = new Map(
    placed.map((address) => [address.url, { address, process: new SimulatedBackend(events, stepTimes, limits) }]),
  );
  const cells = new Map<string, SimulatedCell>();
  const cellOf = (name: string, region: Region) => {
    const known = cells.get(name) ?? new SimulatedCell(events, region, options.cellTimes, backends);
    cells.set(name, known);
    return known;
  };
  const next = createTraffic(cities, options.traffic, random);
  const samples = new Map(regions.map((region): [Region, Sample[]] => [region, []]));
  const failures = new Map(regions.map((region) => [region, { all: 0, afterLoss: 0 }]));
  const lossMs = fromMs + (seconds * 1000) / 2;
  let tokens = 0;
  /** Measured requests without a first token. */
  let open = 0;
  /** Requests by tenant and region. */
  const ledgers = new Map<string, number>();
  const usedBefore = new Map<SimulatedBackend, number>();

  const arrive = () => {
    const arrival = next();
    const startMs = events.nowMs;
    const { region } = arrival.city;
    const roundTrip = cityRoundTripMs(arrival.city, region);
    const isMeasured = startMs >= fromMs && startMs < untilMs;
    const ledger = `${arrival.tenant} ${region}`;
    if (isMeasured) {
      ledgers.set(ledger, (ledgers.get(ledger) ?? 0) + 1);
      open++;
    }
    const [name] = cellsOf(arrival.tenant, region, options.cellsPerRegion);
    const freeMs =
      options.workerMs +
      2 * roundTrip +
      options.cellTimes.request +
      nearestMs(region, placed) +
      queueFreePrefillMs(arrival.promptTokens, stepTimes, limits);
    const pending = {
      arrival,
      arrivedMs: 0,
      sequence: { tenant: arrival.tenant },
      // As `auto` has it: sequences of a mixture.
      sharedBy: "mixtures",
      generated: 0,
      losses: 0,
      onFirstToken() {
        events.after(roundTrip / 2, () => {
          if (!isMeasured) return;
          open--;
          samples.get(region)!.push({ atMs: startMs, firstTokenMs: events.nowMs - startMs, freeMs });
        });
      },
      onDone() {
        if (events.nowMs >= fromMs && events.nowMs < untilMs) tokens += arrival.outputTokens;
      },
      onFailed() {
        if (!isMeasured) return;
        const count = failures.get(region)!;
        count.all++;
        if (pending.generated === 0) open--;
        if (startMs >= lossMs) count.afterLoss++;
      },
    };
    // The Worker asks the region's ledger, then the cell.
    events.after(options.workerMs + roundTrip + roundTrip / 2, () => {
      pending.arrivedMs = events.nowMs;
      cellOf(name, region).take(pending);
    });
    events.after((-Math.log(1 - random()) / options.requestsPerSecond) * 1000, arrive);
  };
  events.after(0, arrive);
  events.after(fromMs, () => {
    for (const { process } of backends.values()) usedBefore.set(process, process.workMs);
    for (const cell of cells.values()) {
      cell.requests = 0;
      cell.batches = 0;
      cell.calls = 0;
      cell.busyMs = 0;
    }
  });
  if (lostRegion) {
    events.after(lossMs, () => {
      for (const { address, process } of backends.values()) {
        if (address.region !== lostRegion) continue;
        const lost = process.lose();
        for (const cell of cells.values()) cell.lose(lost);
      }
    });
  }
  events.runUntil(untilMs);
  const busy = [...cells].map(([name, cell]) => ({ name, cell }));
  const cellRows = busy.map(({ name, cell }) => ({
    region: regions.find((region) => name.startsWith(`cell-${region}-`))!,
    perSecond: cell.requests / seconds,
    use: cell.busyMs / (seconds * 1000),
  }));
  const batches = busy.reduce((sum, { cell }) => sum + cell.batches, 0);
  const calls = busy.reduce((sum, { cell }) => sum + cell.calls, 0);
  const taken = busy.reduce((sum, { cell }) => sum + cell.requests, 0);
  const processes = [...backends.values()];
  const uses = new Map(
    processes.map(({ process }) => [process, (process.workMs - (usedBefore.get(process) ?? 0)) / (seconds * 1000)]),
  );
  // The rest of the first tokens, so that slow ones are not left out.
  for (let ms = 0; open > 0 && ms < 30_000; ms += 100) events.runUntil(untilMs + ms);

  const rows = regions.map((region): RegionRow => {
    const own = samples.get(region)!;
    const before = lostRegion ? own.filter(({ atMs }) => atMs < lossMs) : own;
    const busiest = cellRows.filter((row) => row.region === region).toSorted((a, b) => b.perSecond - a.perSecond)[0];
    const used = processes.filter(({ address }) => address.region === region).map(({ process }) => uses.get(process)!);
    return {
      region,
      backends: used.length,
      requests: own.length,
      ...firstTokens(before),
      failed: failures.get(region)!.all,
      utilisation: used.reduce((a, b) => a + b, 0) / Math.max(1, used.length),
      busiestCell: busiest?.perSecond ?? 0,
      busiestCellUse: busiest?.use ?? 0,
    };
  });
  const afterLossOf = (region: Region): AfterLoss => {
    const own = samples.get(region)!.filter(({ atMs }) => atMs >= lossMs);
    const { afterLoss: failed } = failures.get(region)!;
    return { region, requests: own.length, failed, ...firstTokens(own) };
  };
  return {
    rows,
    requests: rows.reduce((sum, row) => sum + row.requests, 0),
    failed: rows.reduce((sum, row) => sum + row.failed, 0),
    tokens,
    meanBatch: taken / Math.max(1, batches),
    callsPerRequest: calls / Math.max(1, taken),
    steps: processes.reduce((sum, { process }) => sum + process.steps, 0),
    cells: cells.size,
    busiestLedger: ledgers.values().reduce((a, b) => Math.max(a, b), 0) / seconds,
    afterLoss: lostRegion && regions.map(afterLossOf),
  };
}

function firstTokens(samples: readonly Sample[]): Pick<RegionRow, "p50" | "p99" | "freeP50" | "freeP99"> {
  const first = samples.map(({ firstTokenMs }) => firstTokenMs);
  const free = samples.map(({ freeMs }) => freeMs);
  return {
    p50: quantile(first, 0.5),
    p99: quantile(first, 0.99),
    freeP50: quantile(free, 0.5),
    freeP99: quantile(free, 0.99),
  };
}

/** As many backends for each region as its share of the traffic asks for, at least one each. */
export function placeBackends(cities: readonly City[], count: number): BackendAddress[] {
  const shares = regions.map((region) =>
    cities.filter((city) => city.region === region).reduce((sum, { share }) => sum + share, 0),
  );
  const counts = shares.map((share) => Math.max(1, Math.floor(share * count)));
  for (let left = count - counts.reduce((a, b) => a + b, 0); left > 0; left--) {
    const lacking = shares.map((share, i) => share * count - counts[i]);
    counts[lacking.indexOf(Math.max(...lacking))]++;
  }
  return regions.flatMap((region, i) =>
    Array.from({ length: counts[i] }, (_, k) => ({ url: `https://${region}-${k}.example`, region })),
  );
}

function nearestMs(region: Region, addresses: readonly BackendAddress[]): number {
  return Math.min(...addresses.map((address) => roundTripMs(region, address.region)));
}
