/** Everything at the edge that counts time, under a system clock that is set forward or back by hours. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { ensureAlarm, steadyClock } from "../../../edge/platform/clock.ts";
import { createKeyStore } from "../../../edge/tenants/keys.ts";
import { KnownRefusals } from "../../../edge/tenants/known-refusals.ts";
import { type Decision, Quota, reservationMs } from "../../../edge/tenants/quota.ts";
import { createRecords } from "../../../edge/tenants/records.ts";
import { sha256Hex } from "../../../shared/bytes.ts";
import { keyIdOf, keyPrefix, plans, revokedPrefix } from "../../../shared/contracts/tenants.ts";

const hourMs = 3_600_000;
const startMs = Date.UTC(2026, 10, 30, 23);
const none = plans.unlimited;

/** A system clock that a test sets. */
function clockAt(ms: number) {
  const clock = { ms, now: () => clock.ms };
  return clock;
}

test("a steady clock advances with the system's clock, and also by the size of each step back", () => {
  const steps = fc.array(fc.integer({ min: -5 * hourMs, max: 5 * hourMs }), { maxLength: 50 });
  fc.assert(
    fc.property(steps, (all) => {
      const clock = clockAt(startMs);
      const now = steadyClock(clock.now);
      let before = now();
      for (const step of all) {
        clock.ms += step;
        expect(now() - before).toBe(Math.abs(step));
        before = now();
      }
    }),
  );
});

const tokensIn = ({ state }: Quota) => state.seconds.reduce((sum, [, { tokens }]) => sum + tokens, 0);

test.each([-30 * 24, -5, -1, 1, 5])("a full minute is refused for 61 seconds at most after a step of %d h", (hours) => {
  const limits = { ...none, requestsPerMinute: 2, tokensPerMinute: 20, concurrentRequests: 2 };
  const quota = new Quota();
  for (const id of ["a", "b"]) {
    quota.admit(id, limits, startMs);
    quota.reserve(id, 10, limits, startMs);
  }
  const stepped = startMs + hours * hourMs;
  const { refusal, requests } = quota.admit("c", limits, stepped);
  if (hours < 0) {
    // Requests that were counted before the step still count, for a minute from now.
    expect(refusal).toMatchObject({ limit: "requestsPerMinute", used: 2 });
    expect(refusal!.retryAfterMs).toBeLessThanOrEqual(61_000);
    expect(requests!.resetMs).toBeLessThanOrEqual(61_000);
    quota.settle("a", 4, stepped);
    expect([tokensIn(quota), quota.state.open.length]).toEqual([14, 1]);
  }
  // A reservation that nobody renews ends after its lifetime, too.
  expect(quota.admit("d", limits, stepped + reservationMs).refusal).toBeNull();
  expect(tokensIn(quota)).toBe(0);
});

test("a month's tokens are available once, even if the clock moves to other months in between", () => {
  const limits = { ...none, tokensPerMonth: 100 };
  const [november, december, october] = [startMs, Date.UTC(2026, 11, 1, 2), Date.UTC(2026, 9, 31, 22)];
  let quota = new Quota();
  const used = new Map<number, number>();
  const steps = [november, december, november, october, november, december, november, october];
  for (const [i, nowMs] of steps.entries()) {
    quota.settle(`r${i}`, 30, nowMs);
    used.set(nowMs, (used.get(nowMs) ?? 0) + 30);
    const { refusal } = quota.admit("any", { ...none, tokensPerMonth: 0 }, nowMs);
    expect(refusal!.used).toBe(used.get(nowMs));
    quota = new Quota(JSON.parse(JSON.stringify(quota.state)));
  }
  expect(quota.admit("over", limits, november).refusal).toMatchObject({ limit: "tokensPerMonth", used: 120 });
  expect(quota.admit("fits", limits, december).refusal).toBeNull();
  // The number of months that a wrong clock adds is bounded.
  for (let year = 2030; year < 2100; year++) quota.settle(`y${year}`, 1, Date.UTC(year, 0));
  expect(quota.state.months.length).toBeLessThanOrEqual(4);
});

test("a refusal is repeated for a minute at most, even if the clock steps", () => {
  const clock = clockAt(startMs);
  const known = new KnownRefusals(clock.now);
  const limits = { ...none, tokensPerMonth: 10 };
  const retryAfterMs = 20 * 24 * hourMs;
  const refusal = { limit: "tokensPerMonth" as const, maximum: 10, used: 10, requested: 1, retryAfterMs };
  const decision: Decision = { refusal, requests: null, tokens: null };
  for (const [stepMs, isKnown] of [
    [59_999, true],
    [60_000, false],
    [-5 * hourMs, false],
    [5 * hourMs, false],
  ] as const) {
    known.note("acme", decision);
    clock.ms += stepMs;
    expect(known.decisionFor("acme", limits) !== null).toBe(isKnown);
  }
});

test("a revoked key stays refused, and a new one is found, after the clock was set back", async () => {
  const clock = clockAt(startMs);
  const hash = await sha256Hex(new TextEncoder().encode("sk-one"));
  const granted = { hash, tenant: "acme", scopes: [], tenantRecord: { plan: "standard", limits: {}, origins: [] } };
  const record = { ...granted, createdAt: "2026-11-01T00:00:00.000Z", expiresAt: null };
  const stored = new Map<string, unknown>();
  const namespace = {
    get: async (name: string) => stored.get(name) ?? null,
    list: async () => ({ keys: [...stored.keys()].map((name) => ({ name })), list_complete: true as const }),
  };
  const held: Promise<unknown>[] = [];
  const records = createRecords(namespace, clock.now, (read) => void held.push(read));
  const keys = createKeyStore([], records, clock.now);
  const access = () => keys.accessOf("sk-one", "");
  await expect(access()).rejects.toThrow("not known");
  stored.set(keyPrefix + keyIdOf(hash), record);
  clock.ms -= 5 * hourMs;
  expect(await access()).toMatchObject({ tenant: "acme" });
  stored.set(revokedPrefix + keyIdOf(hash), { revokedAt: "2026-11-30T00:00:00.000Z" });
  for (const hours of [-5, -48, 5, -1, 100]) {
    clock.ms += hours * hourMs;
    await expect(access()).rejects.toThrow("revoked");
  }
});

test.each([
  [null, 1000],
  [500, 500],
  [2000, 2000],
  [5 * hourMs, 1000],
])("an alarm that is set for %s ms from now is due in %d ms after ensureAlarm", async (dueMs, expected) => {
  let alarmMs = dueMs === null ? null : startMs + dueMs;
  const storage = {
    getAlarm: async () => alarmMs,
    async setAlarm(ms: number) {
      alarmMs = ms;
    },
  };
  await ensureAlarm(storage, startMs, { delayMs: 1000, maxDelayMs: 120_000 });
  expect(alarmMs).toBe(startMs + expected);
});
