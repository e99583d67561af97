import fc from "fast-check";
import { expect, test } from "vitest";
import { CallQueue, type QueuedCall, type QueueEntry } from "../../../edge/dispatch/call-queue.ts";

const limits = { connections: 3, connectionsPerBackend: 3, callsPerGroup: 1, entries: 40, entriesPerCall: 4 };

interface Entry extends QueueEntry {
  name: number;
}

/** A group. By default it has a backend of its own. */
const group = (key: string, backend = key, maxCalls?: number) => ({ key, backend, ...(maxCalls && { maxCalls }) });

function entries(names: number[], tenant = "t", dueMs = 0): Entry[] {
  return names.map((name) => ({ name, tenant, dueMs }));
}

function range(count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, i) => from + i);
}

function takeAll(queue: CallQueue<Entry>) {
  const taken: QueuedCall<Entry>[] = [];
  for (let call = queue.take(); call; call = queue.take()) taken.push(call);
  return taken;
}

const namesOf = (calls: QueuedCall<Entry>[]) =>
  calls.map((call) => [call.group.key, call.entries.map(({ name }) => name)]);

test("a group sends at once until its limit of calls await an answer", () => {
  const queue = new CallQueue<Entry>({ ...limits, connections: 6, connectionsPerBackend: 5, callsPerGroup: 3 });
  const calls: QueuedCall<Entry>[] = [];
  for (const name of range(6)) {
    queue.add(group("a"), entries([name]));
    calls.push(...takeAll(queue));
  }
  expect(namesOf(calls)).toEqual([0, 1, 2].map((name) => ["a", [name]]));
  queue.release(calls[1]);
  expect(namesOf(takeAll(queue))).toEqual([["a", [3, 4, 5]]]);
  // A group whose limit is one call gathers sequences while that call awaits its answer.
  for (const name of range(5)) queue.add(group("cancel", "b", 1), entries([name]));
  const [bounded, ...more] = takeAll(queue);
  expect([namesOf([bounded]), more]).toEqual([[["cancel", [0, 1, 2, 3]]], []]);
  queue.release(bounded);
  expect(namesOf(takeAll(queue))).toEqual([["cancel", [4]]]);
});

test("a backend that does not answer leaves a connection to the others, whatever it is called for", () => {
  const queue = new CallQueue<Entry>({ ...limits, connections: 6, connectionsPerBackend: 5, callsPerGroup: 3 });
  for (const name of range(20)) queue.add(group(`g${name}`, "hangs"), entries([name]));
  expect(takeAll(queue)).toHaveLength(5);
  queue.add(group("other", "works"), entries([99]));
  const [call] = takeAll(queue);
  expect(call.entries).toMatchObject([{ name: 99 }]);
  // The caller sends this call to another backend, which now has one call more than its limit.
  call.backend = "hangs";
  queue.add(group("other", "works"), entries([100]));
  expect(takeAll(queue)).toEqual([]);
  queue.release(call);
  expect(namesOf(takeAll(queue))).toEqual([["other", [100]]]);
});

test("of a tenant's entries those due first go first, others in order of arrival", () => {
  const queue = new CallQueue<Entry>({ ...limits, entriesPerCall: 5 });
  for (const [i, dueMs] of [60, 5, 90, 1, 60].entries()) queue.add(group("a"), entries([i + 1], "t", dueMs));
  expect(namesOf(takeAll(queue))).toEqual([["a", [4, 2, 1, 5, 3]]]);
});

test("a tenant may take as many places as it leaves free, so that another always finds some", () => {
  const queue = new CallQueue<Entry>({ ...limits, connections: 0 });
  expect(queue.roomOf("burst")).toBe(20);
  queue.add(group("a"), entries(range(20), "burst"));
  expect([queue.waitingOf("burst"), queue.roomOf("burst"), queue.roomOf("second")]).toEqual([20, 20, 10]);
  // Sequences that are sent again are taken even by a full queue.
  queue.add(group("b"), entries(range(30), "burst"));
  expect([queue.waiting, queue.roomOf("burst"), queue.roomOf("second")]).toEqual([50, 20, 0]);
});

test("over any sequence of events: limits hold, tenants take turns, no entry is lost or overtaken, and none waits that could be sent", () => {
  const tenants = ["t0", "t1", "t2"];
  const tenant = fc.constantFrom(...tenants);
  const event = fc.oneof(
    fc.record({ type: fc.constant("arrive" as const), key: fc.constantFrom(..."abcde"), count: fc.nat(9), tenant }),
    fc.record({ type: fc.constant("accept" as const), pick: fc.nat() }),
    fc.record({ type: fc.constant("remove" as const), modulus: fc.integer({ min: 2, max: 5 }) }),
  );
  const property = fc.property(fc.array(event, { maxLength: 60 }), (events) => {
    const queue = new CallQueue<Entry>(limits);
    /** The model of the queue: the entries that must wait, in order of arrival. */
    let waiting: { key: string; entry: Entry }[] = [];
    const awaiting: QueuedCall<Entry>[] = [];
    let next = 0;
    for (const one of events) {
      if (one.type === "arrive") {
        const arrived = entries(range(one.count, next), one.tenant);
        next += one.count;
        queue.add(group(one.key), arrived);
        waiting.push(...arrived.map((e) => ({ key: one.key, entry: e })));
      } else if (one.type === "accept" && awaiting.length > 0) {
        const [call] = awaiting.splice(one.pick % awaiting.length, 1);
        queue.release(call);
      } else if (one.type === "remove") {
        const gone = ({ name }: Entry) => name % one.modulus === 0;
        waiting = waiting.filter((w) => !gone(w.entry));
        queue.remove(gone);
        expect(queue.waiting).toBe(waiting.length);
      }
      for (const call of takeAll(queue)) {
        const { key } = call.group;
        const taken = call.entries;
        // At most one call of a group and `connections` calls in all await an answer, and no call is too large.
        expect(awaiting.map((other) => other.group.key)).not.toContain(key);
        awaiting.push(call);
        expect(awaiting.length).toBeLessThanOrEqual(limits.connections);
        expect(taken.length).toBeGreaterThan(0);
        expect(taken.length).toBeLessThanOrEqual(limits.entriesPerCall);
        const before = waiting.filter((w) => w.key === key).map((w) => w.entry);
        const ofTenant = (name: string, list: Entry[]) => list.filter((e) => e.tenant === name);
        const most = Math.max(...tenants.map((name) => ofTenant(name, taken).length));
        for (const name of tenants) {
          const had = ofTenant(name, before);
          const went = ofTenant(name, taken);
          // No entry is lost, doubled or overtaken by a later one of the same tenant.
          expect(went).toEqual(had.slice(0, went.length));
          // Fair: a tenant with entries left got as many turns as any other, except in the last round.
          if (went.length < had.length) expect(went.length).toBeGreaterThanOrEqual(most - 1);
        }
        waiting = waiting.filter((w) => !taken.includes(w.entry));
      }
      // Nothing waits that could be sent.
      for (const { key } of waiting) {
        expect(awaiting.some((call) => call.group.key === key) || awaiting.length === limits.connections).toBe(true);
      }
      expect(queue.waiting).toBe(waiting.length);
      expect(queue.idle).toBe(awaiting.length === 0 && waiting.length === 0);
    }
  });
  fc.assert(property, { numRuns: 500 }); // a failure prints its seed
});

test("passes over a tenant that waits for one call of each other tenant at most", () => {
  const property = fc.property(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 5 }), (others, calls) => {
    const queue = new CallQueue<Entry>({ ...limits, connections: 1 });
    queue.add(group("first"), entries([0], "o0"));
    const first = queue.take()!;
    for (let o = 0; o < others; o++) {
      for (let k = 0; k < calls; k++) queue.add(group(`o${o}-${k}`), entries(range(20), `o${o}`));
    }
    queue.add(group("mine"), entries([1], "quiet"));
    let passedOver = 0;
    for (let last = first; ; passedOver++) {
      queue.release(last);
      last = queue.take()!;
      if (last.group.key === "mine") break;
    }
    expect(passedOver).toBeLessThanOrEqual(others);
  });
  fc.assert(property, { numRuns: 100 });
});
