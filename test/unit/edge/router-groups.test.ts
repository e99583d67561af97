/** The router over addresses that lead to several processes, and over backends of several regions. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { type BackendAddress, parseAddresses, urlOf } from "../../../edge/dispatch/addresses.ts";
import type { Backend } from "../../../edge/dispatch/backend-group.ts";
import { type Route, Router, roundTripMs } from "../../../edge/dispatch/router.ts";
import { routingLimits, waitMs } from "../../../edge/dispatch/routing-limits.ts";
import { type Region, regions } from "../../../edge/platform/region.ts";

const hash = "a".repeat(64);
const none: ReadonlySet<string> = new Set();
const route = (centroidId: string, rest: Partial<Route> = {}): Route => ({ manifestHash: hash, centroidId, ...rest });
const { namedCallsInRow, processTtlMs, processesPerAddress } = routingLimits;

const url = "http://{name}.a";
const newRouter = () => new Router([{ url, region: null }]);
const choose = (router: Router, key = "c1", tried = none, nowMs = 0) =>
  router.choose(route(key), tried, nowMs)?.backend ?? null;
/** A router that has received an answer from each of these processes. */
function knowing(...names: string[]): { router: Router; any: Backend; processes: Backend[] } {
  const router = newRouter();
  const any = choose(router)!;
  return { router, any, processes: names.map((name) => any.group.recordAnswer(any, name, 0)) };
}

test("one address of several processes is called without a name until two processes are known; then each key has a process of its own", () => {
  const { router, any } = knowing("p0");
  expect([any.id, any.name, choose(router)]).toEqual([url, null, any]);
  any.group.recordAnswer(any, "p1", 0);
  const keys = Array.from({ length: 40 }, (_, i) => `c${i}`);
  const names = keys.map((key) => choose(router, key)!.name);
  expect(new Set(names)).toEqual(new Set(["p0", "p1"]));
  expect(keys.map((key) => choose(router, key)!.name)).toEqual(names);
});

test("one address of several processes is called without a name now and then, which finds new processes", () => {
  const { router, any } = knowing("p0", "p1");
  const sent = Array.from({ length: 2 * (namedCallsInRow + 1) }, () => {
    const backend = choose(router)!;
    backend.recordSent(0);
    return backend;
  });
  expect(sent.filter((backend) => backend === any)).toHaveLength(2);
  expect(sent[namedCallsInRow]).toBe(any);
});

test("one address of several processes is retried at each other process by name, without a name if none is known, then no more", () => {
  const { router, any, processes } = knowing("p0", "p1", "p2");
  const tried = new Set([processes[0].id]);
  const found: (Backend | null)[] = [];
  for (let next = choose(router, "c1", tried); next; next = choose(router, "c1", tried)) {
    found.push(next);
    tried.add(next.id);
  }
  expect(found).not.toContain(any);
  expect(new Set(found)).toEqual(new Set(processes.slice(1)));
  // If only one process is known, the address is tried once without a name.
  const lone = knowing("p0");
  expect(choose(lone.router, "c1", new Set([lone.processes[0].id]))).toBe(lone.any);
  expect(choose(lone.router, "c1", new Set([lone.processes[0].id, lone.any.id]))).toBeNull();
});

test("one address of several processes forgets a process that is gone, and remembers a bounded number", () => {
  const { router, any } = knowing("p0", "p1");
  expect(choose(router, "c1", none, processTtlMs)!.name).not.toBeNull();
  expect(choose(router, "c1", none, processTtlMs + 1)).toBe(any);
  const many = Array.from({ length: 3 * processesPerAddress }, (_, i) => any.group.recordAnswer(any, `q${i}`, i));
  const lost = many.filter((process) => any.group.recordAnswer(any, process.name!, 1000) !== process);
  expect(many.length - lost.length).toBeLessThanOrEqual(processesPerAddress);
});

const addressOf = (region: Region): BackendAddress => ({ url: `https://{name}.${region}`, region });
const everywhere = regions.map(addressOf);
/** All backends in the order in which they are tried. */
function inOrder(router: Router): Backend[] {
  const order: Backend[] = [];
  const next = () => choose(router, "c1", new Set(order.map(({ id }) => id)));
  for (let one = next(); one; one = next()) order.push(one);
  return order;
}
const regionsInOrder = (from: Region | null, addresses = everywhere) =>
  inOrder(new Router(addresses, from)).map(({ address }) => address.region);

test.each<[Region, Region[]]>([
  ["wnam", ["wnam", "enam", "weur"]],
  ["enam", ["enam", "wnam", "weur"]],
  ["sam", ["sam", "enam", "wnam"]],
  ["weur", ["weur", "eeur", "me"]],
  ["eeur", ["eeur", "weur", "me"]],
  ["apac", ["apac", "me", "oc"]],
  ["oc", ["oc", "apac", "wnam"]],
  ["afr", ["afr", "weur", "eeur"]],
  ["me", ["me", "weur", "eeur"]],
])("backends of several regions are used from %s in the order %j, then the others", (from, nearest) => {
  const order = regionsInOrder(from);
  expect(order.slice(0, 3)).toEqual(nearest);
  expect(order).toEqual(regions.toSorted((a, b) => roundTripMs(from, a) - roundTripMs(from, b)));
});

test("backends of several regions: requests leave the nearest when its queue costs more time than the way to the next", () => {
  const [near, far] = [addressOf("weur"), addressOf("enam")];
  const router = new Router([near, far], "weur");
  const first = choose(router)!;
  const detourMs = roundTripMs("weur", "enam") - roundTripMs("weur", "weur");
  const most = Array.from({ length: 32 }, (_, n) => n).findLast((n) => waitMs(n / 32) <= detourMs)!;
  first.load.own += most;
  expect(choose(router)).toBe(first);
  first.load.own += 1;
  expect(choose(router)!.address).toBe(far);
  // The near address turns out to have two processes, which share the load.
  first.group.recordAnswer(first, "p0", 0);
  first.group.recordAnswer(first, "p1", 0);
  expect(choose(router)!.address).toBe(near);
});

test("backends of several regions: cells that lose their region do not all load the next one before its first report", () => {
  const sites = regions.flatMap((region) =>
    Array.from({ length: region === "apac" ? 4 : 2 }, (_, i) => ({ url: `https://${region}-${i}`, region })),
  );
  /** The largest number of sequences that one backend gets from 16 cells with 8 sequences each. */
  const mostAtOne = (heardOfOthers: boolean) => {
    const counts = new Map<string, number>();
    for (let cell = 0; cell < 16; cell++) {
      const router = new Router(sites, "apac");
      for (let i = 0; i < 8; i++) {
        const backend = choose(router, `c${i}`)!;
        backend.recordSent(1);
        backend.recordAnswered(1);
        if (heardOfOthers) backend.load.recordReport({ sequences: 32, slots: 128 }, 0);
      }
      for (const one of inOrder(router)) if (one.address.region === "apac") one.health.recordFailure(true, 0);
      for (let i = 0; i < 8; i++) {
        const backend = choose(router, `c${cell}-${i}`)!;
        backend.recordSent(1);
        counts.set(backend.id, (counts.get(backend.id) ?? 0) + 1);
      }
    }
    return Math.max(...counts.values());
  };
  expect(mostAtOne(true)).toBeLessThan(mostAtOne(false) / 1.5);
});

test("backends of several regions: a backend farther away is used only where the nearest are loaded, whoever loaded them", () => {
  const load = fc.record({ sequences: fc.nat(150), slots: fc.constantFrom(32, 128) });
  const loads = fc.array(load, { minLength: regions.length, maxLength: regions.length });
  const property = fc.property(fc.constantFrom(...regions), loads, (from, reports) => {
    const router = new Router(everywhere, from);
    const all = inOrder(router);
    for (const [i, backend] of all.entries()) backend.load.recordReport(reports[i], 0);
    const wayMs = ({ address }: Backend) => roundTripMs(from, address.region);
    const queueMs = (one: Backend) => waitMs(router.shareOf(one, 0));
    const { backend } = router.choose(route("c1"), none, 0)!;
    for (const nearer of all.filter((one) => wayMs(one) < wayMs(backend))) {
      expect(queueMs(nearer)).toBeGreaterThan(wayMs(backend) - wayMs(nearer));
      expect(router.shareOf(backend, 0)).toBeLessThan(router.shareOf(nearer, 0));
    }
  });
  fc.assert(property); // a failure prints its seed
});

test("backends of several regions: one without a region is near every caller; for a caller without one all are equally near", () => {
  const anywhere = { url: "https://anywhere", region: null };
  expect(regionsInOrder("oc", [addressOf("enam"), anywhere])).toEqual([null, "enam"]);
  const router = new Router([addressOf("enam"), addressOf("oc")]);
  const chosen = new Set(Array.from({ length: 40 }, (_, i) => choose(router, `c${i}`)!.id));
  expect(chosen.size).toBe(2);
});

test.each([
  ["http://{name}.backends.svc:8788", "http://backends.svc:8788", "http://pod-0.backends.svc:8788"],
  ["https://b.example.com/{name}", "https://b.example.com", "https://b.example.com/pod-0"],
  ["https://b.example.com#{name}", "https://b.example.com", "https://b.example.com"],
  ["https://b.example.com", "https://b.example.com", "https://b.example.com"],
])("addresses %s lead to any process at %s, to one at %s", (address, any, one) => {
  expect([urlOf(address, null), urlOf(address, "pod-0")]).toEqual([any, one]);
});

test("addresses are read with their regions", () => {
  const text = " enam=https://a/ ,https://b?x=1, me=http://{name}.c:1";
  expect(parseAddresses(text, "X")).toEqual([
    { url: "https://a", region: "enam" },
    { url: "https://b?x=1", region: null },
    { url: "http://{name}.c:1", region: "me" },
  ]);
});
