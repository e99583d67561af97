import fc from "fast-check";
import { expect, test } from "vitest";
import type { Backend } from "../../../edge/dispatch/backend-group.ts";
import { type Route, Router, rendezvousOrder } from "../../../edge/dispatch/router.ts";
import { routingLimits } from "../../../edge/dispatch/routing-limits.ts";
import { backendAt } from "../../support/scripted-backends.ts";
import { seededRandom } from "../../support/steps.ts";

const hash = "a".repeat(64);
const route = (centroidId: string | null) => ({ manifestHash: hash, centroidId });
const none: ReadonlySet<string> = new Set();
const inOrder = (router: Router, key: string, n: number) =>
  rendezvousOrder(key, names(n)).map((url) => backendAt(router, url));
const centroids = Array.from({ length: 4000 }, (_, i) => `c${i}`);
const addresses = (n: number) => names(n).map((url) => ({ url, region: null }));
const names = (n: number) => Array.from({ length: n }, (_, i) => `http://10.0.0.${i + 1}:8788`);

test("keys are spread evenly over backends, as the first and as the second choice", () => {
  const backends = names(5);
  const counts = [0, 1].map((place) => {
    const firsts = centroids.map((key) => rendezvousOrder(key, backends)[place]);
    return backends.map((name) => firsts.filter((first) => first === name).length);
  });
  // Of 4,000 keys 800 are expected at each backend; five standard deviations are 126.
  for (const count of counts.flat()) expect(Math.abs(count - 800)).toBeLessThan(130);
});

test("a backend that goes moves only its own keys, whatever the order in the list; edges of different releases agree", () => {
  const cells = ["cell-weur-0", "cell-weur-1", "cell-weur-2"];
  expect(rendezvousOrder("acme", cells)).toEqual(["cell-weur-0", "cell-weur-2", "cell-weur-1"]);
  for (const key of centroids.slice(0, 500)) {
    const order = rendezvousOrder(key, names(5));
    expect(rendezvousOrder(key, names(5).toReversed())).toEqual(order);
    for (const gone of names(5)) {
      const rest = names(5).filter((name) => name !== gone);
      expect(rendezvousOrder(key, rest)).toEqual(order.filter((name) => name !== gone));
    }
  }
});

test("a backend is ejected after errors in a row; a completion in between resets the count", () => {
  const router = new Router(addresses(2));
  const [first, second] = inOrder(router, "c1", 2);
  expect([first.health.recordFailure(false, 0), first.health.recordFailure(false, 0)]).toEqual([false, false]);
  first.recordSuccess();
  expect([first.health.recordFailure(false, 0), first.health.recordFailure(false, 0)]).toEqual([false, false]);
  expect(router.choose(route("c1"), none, 0)?.backend).toBe(first);
  expect(first.health.recordFailure(false, 0)).toBe(true);
  expect(router.choose(route("c1"), none, 0)).toEqual({ backend: second, isFit: true });
});

test("an ejected backend returns only by a probe, one at a time; each ejection lasts twice as long as the one before", () => {
  const router = new Router(addresses(2));
  const [first, second] = inOrder(router, "c1", 2);
  expect(first.health.recordFailure(true, 0)).toBe(true);
  // Further failures of an ejected backend change nothing.
  for (let i = 0; i < 10; i++) expect(first.health.recordFailure(true, 5)).toBe(false);
  expect(router.takeProbes(999)).toEqual([]);
  expect(router.takeProbes(1000)).toEqual([first]);
  expect(router.takeProbes(1001)).toEqual([]);
  expect(router.choose(route("c1"), none, 1001)?.backend).toBe(second);
  first.group.recordProbe(first, false, 1100);
  expect(router.takeProbes(3099)).toEqual([]);
  expect(router.takeProbes(3100)).toEqual([first]);
  first.group.recordProbe(first, false, 3100);
  expect(router.takeProbes(7099)).toEqual([]);
  expect(router.takeProbes(7100)).toEqual([first]);
  first.group.recordProbe(first, true, 7100);
  expect(router.choose(route("c1"), none, 7100)).toEqual({ backend: first, isFit: true });
  // The backend is ready but fails again: only a completion, not a probe, resets how long ejections last.
  first.health.recordFailure(true, 7200);
  expect(router.takeProbes(15_199)).toEqual([]);
  expect(router.takeProbes(15_200)).toEqual([first]);
  first.group.recordProbe(first, true, 15_200);
  first.recordSuccess();
  first.health.recordFailure(true, 20_000);
  expect(router.takeProbes(21_000)).toEqual([first]);
  // The length of ejections has a maximum.
  for (let i = 0; i < 10; i++) first.group.recordProbe(first, false, 30_000);
  expect(first.health.ejectedUntilMs).toBe(30_000 + routingLimits.maxEjectionMs);
});

const withNumerics = (numerics: string | null) => ({ ...route("c1"), numerics });
test.each<[string, string, Route, Route[]]>([
  ["manifest", hash, route("c1"), [{ ...route("c1"), manifestHash: "b".repeat(64) }]],
  ["numerics", "cpu-int8-1", withNumerics("cpu-int8-1"), [null, "cpu-fp32-1"].map(withNumerics)],
])("a backend that lacks the %s of a call is avoided by such calls for a while", (_, mismatch, passed, others) => {
  const router = new Router(addresses(2));
  const [first, second] = inOrder(router, "c1", 2);
  first.health.recordMismatch(mismatch, 0);
  expect(router.choose(passed, none, 4999)).toEqual({ backend: second, isFit: true });
  expect(router.choose(passed, new Set([second.id]), 4999)).toEqual({ backend: first, isFit: false });
  for (const other of others) expect(router.choose(other, none, 4999)?.backend).toBe(first);
  expect(router.choose(passed, none, 5000)?.backend).toBe(first);
});

test("over any sequence of events a backend is chosen: a fit one if there is one, within the load bound", () => {
  const load = { sequences: fc.nat(99), slots: fc.integer({ min: 1, max: 64 }) };
  const event = fc.oneof(
    { weight: 4, arbitrary: fc.record({ type: fc.constant("send" as const), centroid: fc.nat(9) }) },
    { weight: 3, arbitrary: fc.record({ type: fc.constant("end" as const), pick: fc.nat(), ok: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("probe" as const), ready: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("pass" as const), ms: fc.nat(2000) }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant("report" as const), pick: fc.nat(), ...load }) },
  );
  const property = fc.property(fc.integer({ min: 1, max: 5 }), fc.array(event, { maxLength: 200 }), (n, events) => {
    const router = new Router(addresses(n));
    const running: Backend[] = [];
    const backends = names(n).map((url) => backendAt(router, url));
    const ejected = new Set<Backend>();
    const slots = new Map(backends.map((one) => [one, routingLimits.presumedSlots]));
    const ownOf = (one: Backend) => running.filter((other) => other === one).length;
    let nowMs = 0;
    for (const one of events) {
      if (one.type === "send") {
        const choice = router.choose(route(`c${one.centroid}`), none, nowMs)!;
        // A backend is always chosen, and an unfit one only if none is fit.
        expect(choice.isFit).toBe(!ejected.has(choice.backend));
        if (!choice.isFit) expect(ejected.size).toBe(n);
        else {
          const fit = backends.filter((one) => !ejected.has(one));
          const total = fit.reduce((sum, one) => sum + router.shareOf(one, nowMs) * slots.get(one)!, 1);
          const bound = (routingLimits.loadFactor * total) / fit.reduce((sum, one) => sum + slots.get(one)!, 0);
          expect(router.shareOf(choice.backend, nowMs)).toBeLessThan(Math.max(routingLimits.freeShare, bound + 1e-9));
        }
        choice.backend.load.own += 1;
        running.push(choice.backend);
      } else if (one.type === "end" && running.length > 0) {
        const [backend] = running.splice(one.pick % running.length, 1);
        backend.load.own -= 1;
        if (one.ok) backend.recordSuccess();
        else if (backend.health.recordFailure(false, nowMs)) {
          expect(ejected.has(backend)).toBe(false);
          ejected.add(backend);
        }
      } else if (one.type === "probe") {
        for (const backend of router.takeProbes(nowMs)) {
          expect(ejected.has(backend)).toBe(true);
          backend.group.recordProbe(backend, one.ready, nowMs);
          if (one.ready) ejected.delete(backend);
        }
      } else if (one.type === "report") {
        const backend = backends[one.pick % n];
        backend.load.recordReport(one, nowMs);
        slots.set(backend, one.slots);
        expect(router.shareOf(backend, nowMs)).toBeCloseTo(Math.max(one.sequences, ownOf(backend)) / one.slots);
      } else if (one.type === "pass") nowMs += one.ms;
    }
    // In the end the router forgets the sequences that others reported, but not its own.
    for (const backend of backends) {
      expect(router.shareOf(backend, nowMs + 1e6)).toBeCloseTo(ownOf(backend) / slots.get(backend)!);
    }
  });
  fc.assert(property, { numRuns: 500 }); // a failure prints its seed
});

const herd = fc.record({
  seed: fc.nat(),
  routers: fc.integer({ min: 1, max: 32 }),
  backends: fc.integer({ min: 2, max: 12 }),
  /** Running sequences per backend. */
  perBackend: fc.integer({ min: 64, max: 120 }),
});
type Herd = typeof herd extends fc.Arbitrary<infer Value> ? Value : never;

/**
 * Several routers send sequences to the same backends; a share `hot` of the sequences has one centroid. A router gets a report only after
 * all routers together have sent more sequences, `late` times as many as run. Returns the largest load of a backend over the mean.
 */
function worstBalance({ seed, routers, backends, perBackend }: Herd, hot: number, late: number): number {
  const random = seededRandom(seed);
  const all = Array.from({ length: routers }, () => new Router(addresses(backends)));
  const running: Backend[] = [];
  const counts = new Map(names(backends).map((name) => [name, 0]));
  const reports: (() => void)[] = [];
  const steady = backends * perBackend;
  let worst = 0;
  for (let sent = 0; sent < 4 * steady; sent++) {
    if (running.length >= steady) {
      const [backend] = running.splice(Math.floor(random() * running.length), 1);
      backend.load.own -= 1;
      counts.set(backend.id, counts.get(backend.id)! - 1);
    }
    const router = all[Math.floor(random() * routers)];
    const centroid = random() < hot ? "hot" : `c${Math.floor(1000 * random())}`;
    const { backend } = router.choose(route(centroid), none, 0)!;
    backend.recordSent(1);
    running.push(backend);
    const sequences = counts.get(backend.id)! + 1;
    counts.set(backend.id, sequences);
    reports.push(() => {
      backend.recordAnswered(1);
      backend.load.recordReport({ sequences, slots: 128 }, 0);
    });
    if (reports.length > late * steady) reports.shift()!();
    if (sent >= 2 * steady) worst = Math.max(worst, Math.max(...counts.values()) / perBackend);
  }
  return worst;
}

test.each([
  // If routers took the least loaded backend, not the first free one in the centroid's order, its load would be 2.5 times the mean.
  ["many centroids and very old reports", 0, 1 / 4],
  // Routers without reports would reach 2.7 times the mean.
  ["a centroid of half of all sequences and fresher reports", 0.5, 1 / 16],
])("routers with %s do not overload a backend together", (_, hot, late) => {
  const property = fc.property(herd, (one) => void expect(worstBalance(one, hot, late)).toBeLessThan(1.75));
  fc.assert(property, { numRuns: 12 }); // a failure prints its seed
});
