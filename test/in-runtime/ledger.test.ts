/** Ledgers as real objects, and settlements that fail. */
import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, test, vi } from "vitest";
import type { Cell } from "../../edge/cell/cell.ts";
import { admissionOf } from "../../edge/tenants/admission.ts";
import type { Consumption, ReportUse } from "../../edge/tenants/consumption.ts";
import { type QuotaState, settledMs } from "../../edge/tenants/quota.ts";
import { Settlements } from "../../edge/tenants/settlements.ts";
import { plans } from "../../shared/contracts/tenants.ts";
import { ledgerOfTenant, settle } from "./objects.ts";

let tenants = 0;
function newLedger() {
  const tenant = `ledgers-${tenants++}`;
  const opened = ledgerOfTenant(tenant);
  const { inLedger } = opened;
  const countsOf = async (kind: keyof QuotaState) =>
    inLedger((_, { storage }) => storage.sql.exec("SELECT * FROM counts WHERE kind = ?", kind).toArray());
  const without = async (table: "counts" | "usage") => {
    const rename = (from: string, to: string) =>
      inLedger((_, { storage }) => void storage.sql.exec(`ALTER TABLE ${from} RENAME TO ${to}`));
    await rename(table, "away");
    return () => rename("away", table);
  };
  const today = () => new Date().toISOString().slice(0, 10);
  return { ...opened, tenant, countsOf, without, usage: () => opened.ledger.usage(today(), today()) };
}

const used = { model: "gpt2", centroid: null, requests: 1, promptTokens: 3, completionTokens: 4 };
function settlementsIn(storage: DurableObjectStorage, report: ReportUse = () => undefined): Settlements {
  return new Settlements({
    ...{ ledgers: env.LEDGERS, storage, now: Date.now, newId: () => crypto.randomUUID(), report },
  });
}
const patience = { timeout: 10_000, interval: 20 };
const limits = { ...plans.unlimited, requestsPerMinute: 120, concurrentRequests: 500 };

const failureOf = (call: Promise<unknown>) => call.then(() => "none", String);

test("a write that failed is repeated later, by itself", async () => {
  const { ledger, countsOf, without } = newLedger();
  const repair = await without("counts");
  expect((await ledger.admit("r1", limits)).refusal).toBeNull();
  // This settlement waits for the failing write, so it fails, too.
  expect(await failureOf(settle(ledger, "r2", []))).toMatch(/no such table: counts/);
  await repair();
  await vi.waitFor(async () => expect(await countsOf("open")).toMatchObject([{ key: "r1" }]), patience);
  expect(await countsOf("seconds")).toMatchObject([{ value: '{"requests":1,"tokens":0}' }]);
});

test("a request whose tokens are refused still counts when the ledger's object was evicted", async () => {
  const { ledger, countsOf, stateOf } = newLedger();
  expect((await ledger.admit("r1", { ...limits, tokensPerMinute: 10 }, 11)).refusal).toMatchObject({ requested: 11 });
  await vi.waitFor(async () => expect(await countsOf("seconds")).toHaveLength(1));
  await evictDurableObject(ledger);
  const { open, seconds } = await stateOf();
  expect([open, seconds]).toEqual([[], [[expect.any(Number), { requests: 1, tokens: 0 }]]]);
});

test("a settlement whose write fails is not confirmed, and is counted once when it is tried again", async () => {
  const { ledger, without, stateOf, usage } = newLedger();
  await ledger.admit("r1", limits);
  const repair = await without("usage");
  expect(await failureOf(settle(ledger, "r1", [used]))).toMatch(/no such table: usage/);
  await repair();
  await settle(ledger, "r1", [used]);
  await evictDurableObject(ledger);
  const { open, months } = await stateOf();
  expect([open, months[0]?.[1]]).toEqual([[], 7]);
  expect(await usage()).toMatchObject([{ requests: 1, promptTokens: 3 }]);
});

test("a settlement that its ledger does not confirm is kept in the object, and counted once when tried again", async () => {
  const { tenant, ledger, inLedger, stateOf, usage } = newLedger();
  await ledger.admit("r1", limits);
  let fails = 2;
  await inLedger(({ quota }) => {
    const settle = quota.settle.bind(quota);
    quota.settle = (...request) => {
      // The first try is lost before the ledger counts it, the second try after.
      const isCounted = fails === 2 ? false : settle(...request);
      if (fails-- > 0) throw new Error("lost");
      return isCounted;
    };
  });
  const cell = env.CELLS.getByName(`settlements of ${tenant}`);
  await runInDurableObject(cell, async (_: Cell, { storage }) => {
    const settlements = settlementsIn(storage);
    await settlements.record({ requestId: "r1", tenant, beganMs: 0, isLimited: true }, [used]);
    expect(await storage.getAlarm()).not.toBeNull();
  });
  await evictDurableObject(cell);
  await runDurableObjectAlarm(cell);
  await runDurableObjectAlarm(cell);
  const kept = await runInDurableObject(cell, (_: Cell, { storage }) =>
    storage.sql.exec("SELECT id FROM unsettledGroups").toArray(),
  );
  expect(kept).toEqual([]);
  const state = await stateOf();
  expect([state.open, state.months[0][1]]).toEqual([[], 7]);
  expect(fails).toBe(0);
  expect(await usage()).toEqual([]);
});

test("use that an object has stored is counted by its alarm if the object is lost before it settles", async () => {
  const { tenant, usage } = newLedger();
  const cell = env.CELLS.getByName(`stored of ${tenant}`);
  const request = { requestId: "r", tenant, beganMs: 0, isLimited: true };
  await runInDurableObject(cell, async (_: Cell, { storage }) => {
    const settlements = settlementsIn(storage);
    const lost = vi.spyOn(settlements, "retry").mockResolvedValue();
    await settlements.store(request, used);
    lost.mockRestore();
  });
  await evictDurableObject(cell);
  expect(await usage()).toEqual([]);
  expect(await runDurableObjectAlarm(cell)).toBe(true);
  expect(await usage()).toMatchObject([{ requests: 1, promptTokens: 3 }]);
});

test("a settlement is counted once though nothing ran for a day between two tries", async () => {
  const { ledger, inLedger, stateOf, usage } = newLedger();
  await settle(ledger, "before", [used]);
  await settle(ledger, "r", [used]);
  await inLedger((_, { storage }) => {
    const ago = 86_400_000;
    storage.sql.exec("UPDATE counts SET value = CAST(value AS REAL) - ? WHERE kind = 'settled'", ago);
    // `before` becomes older than the time for which settlements are remembered.
    storage.sql.exec("UPDATE counts SET value = CAST(value AS REAL) - ? WHERE key = 'before'", settledMs);
  });
  await evictDurableObject(ledger);
  expect(await settle(ledger, "r", [used])).toEqual([]);
  await settle(ledger, "other", []);
  expect(await usage()).toMatchObject([{ requests: 2 }]);
  expect((await stateOf()).settled.map(([id]) => id)).toEqual(["r"]);
});

test("use that objects gather for a tenant without limits is all counted, and once if two computed the same request", async () => {
  const { tenant, usage } = newLedger();
  const reported: [string, ...Consumption[]][] = [];
  const gather = (object: string, ids: string[]) =>
    runInDurableObject(env.CELLS.getByName(`${object} of ${tenant}`), async (_: Cell, { storage }) => {
      const settlements = settlementsIn(storage, (who, consumed) => {
        reported.push([who, ...consumed]);
        if (who === "refused") throw new Error("too many events");
      });
      const record = (who: string, requestId: string, one: Consumption) =>
        settlements.record({ requestId, tenant: who, beganMs: 0, isLimited: who !== tenant }, [one]);
      const refused = record("refused", object, used).catch(() => "rejected");
      const counted = ids.map((id) => record(tenant, id, id === "c" ? { ...used, centroid: "c1" } : used));
      expect(settlements.idle).toBe(false);
      await Promise.allSettled(counted);
      expect([await refused, settlements.idle]).toEqual(["rejected", true]);
    });
  await gather("lost", ["a", "b", "c"]);
  // The first cell was lost after it had settled b.
  await gather("next", ["b", "d"]);
  expect(await usage()).toMatchObject([{ requests: 3 }, { centroid: "c1", requests: 1 }]);
  expect(reported.filter(([who]) => who === tenant)).toEqual([
    [tenant, { ...used, requests: 2, promptTokens: 6, completionTokens: 8 }, { ...used, centroid: "c1" }],
    [tenant, used],
  ]);
});

test("after an erasure, use of requests that began before is dropped, and that of later ones counted, in one group, too", async () => {
  const { tenant, ledger, usage } = newLedger();
  await ledger.erase();
  const record = (...began: number[]) =>
    runInDurableObject(env.CELLS.getByName(`erased of ${tenant}`), async (_: Cell, { storage }) => {
      const settlements = settlementsIn(storage);
      const requests = began.map((beganMs) => ({ requestId: `r${beganMs}`, tenant, beganMs, isLimited: false }));
      await Promise.all(requests.map((request) => settlements.record(request, [used])));
    });
  const before = Date.now() - 60_000;
  await record(before);
  expect(await usage()).toEqual([]);
  await record(before + 1, Date.now());
  expect(await usage()).toMatchObject([{ requests: 1 }]);
});

test("an answer whose ledger never answers ends all the same, and its charge stays pending", async () => {
  vi.useFakeTimers();
  try {
    const underWay: Promise<void>[] = [];
    const admission = admissionOf(
      { requestId: "r", tenant: "t", beganMs: 0, isLimited: true },
      {
        ...{ ledgers: env.LEDGERS, recorder: { record: () => new Promise(() => undefined) } },
        ...{ background: (work) => underWay.push(work), now: Date.now, log: () => undefined },
      },
    );
    let hasEnded = false;
    void admission.settle([used]).then(() => {
      hasEnded = true;
    });
    await vi.advanceTimersByTimeAsync(2000);
    expect(hasEnded).toBe(false);
    await vi.advanceTimersByTimeAsync(2000);
    expect(hasEnded).toBe(true);
    expect(underWay).toHaveLength(1);
  } finally {
    vi.useRealTimers();
  }
});
