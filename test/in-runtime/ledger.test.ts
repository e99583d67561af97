/** Ledgers of one tenant in several regions, as real objects: shares, and settlements that fail. */
import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, test, vi } from "vitest";
import type { Cell } from "../../edge/cell/cell.ts";
import type { Region } from "../../edge/platform/region.ts";
import type { Consumption, ReportUse } from "../../edge/tenants/consumption.ts";
import { leaseOf } from "../../edge/tenants/lease.ts";
import { type Ledger, ledgerOf } from "../../edge/tenants/ledger.ts";
import { regionalName } from "../../edge/tenants/ledger-name.ts";
import type { QuotaState } from "../../edge/tenants/quota.ts";
import { Settlements } from "../../edge/tenants/settlements.ts";
import { plans } from "../../shared/contracts/tenants.ts";

let tenants = 0;
function tenantIn<Name extends Region>(...regions: Name[]) {
  const tenant = `leases-${tenants++}`;
  const root = env.LEDGERS.getByName(tenant);
  const ledgers = regions.map((region) => ledgerOf(env.LEDGERS, regionalName(tenant, region)));
  return { tenant, root, ledgers };
}

const used = { model: "gpt2", centroid: null, requests: 1, promptTokens: 3, completionTokens: 4 };
function settlementsIn(storage: DurableObjectStorage, report: ReportUse = () => undefined): Settlements {
  return new Settlements(env.LEDGERS, storage, { now: Date.now, newId: () => crypto.randomUUID(), report });
}
const patience = { timeout: 10_000, interval: 20 };
const today = () => new Date().toISOString().slice(0, 10);
const limits = { ...plans.unlimited, requestsPerMinute: 120, concurrentRequests: 500 };

test("500 requests at once from three regions: never over the limit, and below it by at most a lease each", async () => {
  const { ledgers } = tenantIn("weur", "enam", "apac");
  const asked = Array.from({ length: 500 }, (_, i) => ledgers[i % 3].admit(`r${i}`, limits));
  const admitted = (await Promise.all(asked)).filter(({ refusal }) => !refusal).length;
  expect(admitted).toBeLessThanOrEqual(120);
  expect(admitted).toBeGreaterThanOrEqual(120 - 3 * leaseOf(120));
});

test("what one region holds and does not use is free for another that needs it", async () => {
  const { ledgers } = tenantIn("weur", "enam");
  for (let i = 0; i < 30; i++) expect((await ledgers[0].admit(`a${i}`, limits)).refusal).toBeNull();
  let admitted = 0;
  for (let i = 0; i < 100; i++) if (!(await ledgers[1].admit(`b${i}`, limits)).refusal) admitted++;
  expect(admitted).toBeGreaterThanOrEqual(90 - leaseOf(120));
  expect(admitted).toBeLessThanOrEqual(90);
});

test("a region that has just sent its use, or seen other limits, still admits exactly the limit", async () => {
  const { ledgers } = tenantIn("weur");
  const [ledger] = ledgers;
  await ledger.admit("first", { ...limits, requestsPerMinute: 60 });
  await ledger.settle("first", [used]);
  await ledger.send();
  let admitted = 0;
  for (let i = 0; i < 130; i++) {
    if (!(await ledger.admit(`r${i}`, limits)).refusal) admitted++;
    if (i % 20 === 0) await ledger.settle(`r${i}`, [used]);
    if (i % 20 === 1) await ledger.send();
  }
  expect(admitted).toBe(119);
});

test("a limit that was raised is in force after the clock was set back by hours", async () => {
  const { root, ledgers } = tenantIn("weur");
  const [ledger] = ledgers;
  let admitted = 0;
  for (let i = 0; i < 130; i++) if (!(await ledger.admit(`r${i}`, limits)).refusal) admitted++;
  expect(admitted).toBe(120);
  const setBack = (object: Ledger) => {
    const now = object.now;
    object.now = () => now() - 5 * 3_600_000;
  };
  for (const one of [root, ledger]) await runInDurableObject(one, setBack);
  expect((await ledger.admit("more", { ...limits, requestsPerMinute: 200 })).refusal).toBeNull();
});

test("use is sent to the tenant's ledger by an alarm until it is confirmed, and counted once", async () => {
  const { root, ledgers } = tenantIn("weur");
  const [ledger] = ledgers;
  // The tenant's ledger gets it, and the region is not told.
  let lost = 0;
  await runInDurableObject(ledger, (object: Ledger) => {
    object.borrower.applyAnswer = () => {
      lost++;
      throw new Error("the answer is lost");
    };
  });
  await ledger.settle("r1", [used]);
  await ledger.settle("r1", [used]);
  await vi.waitFor(() => expect(lost).toBeGreaterThan(0));
  // Its object goes away; what it has not confirmed is still there.
  await evictDurableObject(ledger);
  await ledger.settle("r2", [used]);
  await runDurableObjectAlarm(ledger);
  expect(await root.usage(today(), today())).toMatchObject([{ requests: 2, promptTokens: 6, completionTokens: 8 }]);
});

/** Makes every write that needs the table fail; returns what ends that. */
async function without(ledger: DurableObjectStub<Ledger>, table: "counts" | "usage"): Promise<() => Promise<void>> {
  const rename = (from: string, to: string) =>
    runInDurableObject(ledger, (_: Ledger, { storage }) => {
      storage.sql.exec(`ALTER TABLE ${from} RENAME TO ${to}`);
    });
  await rename(table, "away");
  return () => rename("away", table);
}

const storedIn = (ledger: DurableObjectStub<Ledger>, table: string) =>
  runInDurableObject(ledger, (_: Ledger, { storage }) => storage.sql.exec(`SELECT * FROM ${table}`).toArray());

const countsIn = async (ledger: DurableObjectStub<Ledger>, kind: keyof QuotaState) =>
  (await storedIn(ledger, "counts")).filter((row) => row.kind === kind);

const failureOf = (call: Promise<unknown>) => call.then(() => "none", String);

test("what could not be written is written later, by itself", async () => {
  const { root } = tenantIn();
  const repair = await without(root, "counts");
  expect((await root.admit("r1", limits)).refusal).toBeNull();
  // It waits for the same write.
  expect(await failureOf(root.settle("r2", []))).toMatch(/no such table: counts/);
  await repair();
  await vi.waitFor(async () => expect(await countsIn(root, "open")).toMatchObject([{ key: "r1" }]), patience);
  expect(await countsIn(root, "seconds")).toMatchObject([{ value: '{"requests":1,"tokens":0}' }]);
});

test("a request whose tokens are refused still counts when the ledger's object was evicted", async () => {
  const { root } = tenantIn();
  expect((await root.admit("r1", { ...limits, tokensPerMinute: 10 }, 11)).refusal).toMatchObject({ requested: 11 });
  await vi.waitFor(async () => expect(await countsIn(root, "seconds")).toHaveLength(1));
  await evictDurableObject(root);
  const { open, seconds } = await runInDurableObject(root, (object: Ledger) => object.quota.state);
  expect([open, seconds]).toEqual([[], [[expect.any(Number), { requests: 1, tokens: 0 }]]]);
});

test("a settlement whose write fails is not confirmed, and is counted once when it is tried again", async () => {
  const { root } = tenantIn();
  await root.admit("r1", limits);
  const repair = await without(root, "usage");
  expect(await failureOf(root.settle("r1", [used]))).toMatch(/no such table: usage/);
  await repair();
  await root.settle("r1", [used]);
  await evictDurableObject(root);
  const { open, months } = await runInDurableObject(root, (object: Ledger) => object.quota.state);
  expect([open, months[0]?.[1]]).toEqual([[], 7]);
  expect(await root.usage(today(), today())).toMatchObject([{ requests: 1, promptTokens: 3 }]);
});

test.each(["is lost", "goes on"])(
  "use of a region that could not be written is sent again, and counted once; the ledger %s",
  async (how) => {
    const { root, ledgers } = tenantIn("weur");
    const [ledger] = ledgers;
    await ledger.admit("r1", limits);
    const repair = await without(root, "usage");
    await ledger.settle("r1", [used]);
    expect(await failureOf(ledger.send())).toMatch(/no such table: usage/);
    await repair();
    if (how === "goes on") {
      await vi.waitFor(async () => expect(await storedIn(root, "usage")).toHaveLength(1), patience);
    }
    await evictDurableObject(root);
    await ledger.send();
    expect(await root.usage(today(), today())).toMatchObject([{ requests: 1, promptTokens: 3 }]);
  },
);

test("use whose alarm could not be set is sent once it can be, and its settlement is not confirmed before", async () => {
  const { root, ledgers } = tenantIn("weur");
  const [ledger] = ledgers;
  await ledger.admit("r1", limits);
  const breakAlarms = (object: Ledger, state: DurableObjectState) => {
    object.send = () => Promise.reject(new Error("not by itself"));
    state.storage.setAlarm = () => Promise.reject(new Error("no alarm"));
  };
  await runInDurableObject(ledger, breakAlarms);
  expect(await failureOf(ledger.settle("r1", [used]))).toMatch(/no alarm/);
  await runInDurableObject(ledger, (object: Ledger, state) => {
    Reflect.deleteProperty(object, "send");
    Reflect.deleteProperty(state.storage, "setAlarm");
  });
  await ledger.settle("r1", [used]);
  expect(await runDurableObjectAlarm(ledger)).toBe(true);
  expect(await storedIn(root, "usage")).toMatchObject([{ requests: 1 }]);
});

test("use waits in its region while the tenant's ledger fails", async () => {
  const { root, ledgers } = tenantIn("weur");
  await ledgers[0].admit("r1", limits);
  await ledgers[0].settle("r1", [used]);
  await runInDurableObject(root, (object: Ledger) => {
    object.quota.used = () => {
      throw new Error("away");
    };
  });
  await runDurableObjectAlarm(ledgers[0]);
  // What the region holds is admitted all the same.
  expect((await ledgers[0].admit("r2", limits)).refusal).toBeNull();
  await evictDurableObject(root);
  expect(await root.usage(today(), today())).toMatchObject([{ requests: 1 }]);
});

test("a settlement that its ledger does not confirm is kept in the object, and counted once when tried again", async () => {
  const { tenant, root, ledgers } = tenantIn("weur");
  const name = regionalName(tenant, "weur");
  await ledgers[0].admit("r1", limits);
  let fails = 2;
  await runInDurableObject(ledgers[0], (object: Ledger) => {
    const settle = object.quota.settle.bind(object.quota);
    object.quota.settle = (...request) => {
      // The first try is lost on its way there, the second one on its way back.
      const isCounted = fails === 2 ? false : settle(...request);
      if (fails-- > 0) throw new Error("lost");
      return isCounted;
    };
  });
  const cell = env.CELLS.getByName(`settlements of ${tenant}`);
  await runInDurableObject(cell, async (_: Cell, { storage }) => {
    const settlements = settlementsIn(storage);
    await settlements.record({ requestId: "r1", tenant, ledger: name, beganMs: 0, isLimited: true }, [used]);
    expect(await storage.getAlarm()).not.toBeNull();
  });
  await evictDurableObject(cell);
  await runDurableObjectAlarm(cell);
  await runDurableObjectAlarm(cell);
  const kept = await runInDurableObject(cell, (_: Cell, { storage }) =>
    storage.sql.exec("SELECT id FROM unsettled").toArray(),
  );
  expect(kept).toEqual([]);
  const state = await runInDurableObject(ledgers[0], (object: Ledger) => object.quota.state);
  expect([state.open, state.months[0][1]]).toEqual([[], 7]);
  expect(fails).toBe(-1);
  expect(await root.usage(today(), today())).toEqual([]);
});

test("what objects gather of a tenant without limits is counted whole, also where they computed the same request", async () => {
  const { tenant, root } = tenantIn();
  const reported: [string, ...Consumption[]][] = [];
  const gathered = ["before", "after"].map((object) =>
    runInDurableObject(env.CELLS.getByName(`${object} of ${tenant}`), async (_: Cell, { storage }) => {
      const settlements = settlementsIn(storage, (who, consumed) => {
        reported.push([who, ...consumed]);
        if (who === "refused") throw new Error("too many events");
      });
      const record = (who: string, requestId: string, one: Consumption) =>
        settlements.record({ requestId, tenant: who, ledger: who, beganMs: 0, isLimited: who !== tenant }, [one]);
      const refused = record("refused", "0", used).catch(() => "rejected");
      // The first of each is the same request.
      const counted = ["1", "2", "3"].map((id) => record(tenant, id, id === "3" ? { ...used, centroid: "c1" } : used));
      expect(settlements.idle).toBe(false);
      await Promise.allSettled(counted);
      expect([await refused, settlements.idle]).toEqual(["rejected", true]);
    }),
  );
  await Promise.all(gathered);
  expect(await root.usage(today(), today())).toMatchObject([{ requests: 4 }, { centroid: "c1", requests: 2 }]);
  // One event for each model and centroid.
  expect(reported.filter(([who]) => who === tenant)).toEqual(
    Array(2).fill([
      tenant,
      { ...used, requests: 2, promptTokens: 6, completionTokens: 8 },
      { ...used, centroid: "c1" },
    ]),
  );
});

test("after an erasure, use of requests that began before is dropped, and that of later ones counted", async () => {
  const { tenant, root } = tenantIn();
  await root.erase();
  const record = (beganMs: number) =>
    runInDurableObject(env.CELLS.getByName(`erased of ${tenant}`), (_: Cell, { storage }) =>
      settlementsIn(storage).record({ requestId: "r", tenant, ledger: tenant, beganMs, isLimited: false }, [used]),
    );
  await record(Date.now() - 60_000);
  expect(await root.usage(today(), today())).toEqual([]);
  await record(Date.now());
  expect(await root.usage(today(), today())).toMatchObject([{ requests: 1 }]);
});
