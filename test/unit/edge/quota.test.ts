import fc from "fast-check";
import { expect, test } from "vitest";
import { Quota, reservationMs } from "../../../edge/tenants/quota.ts";
import { plans, type TenantLimits } from "../../../shared/contracts/tenants.ts";

const none = plans.unlimited;
const startMs = Date.UTC(2026, 10, 25, 4);

/** Admits a request, then reserves its tokens. Returns the refusal of either step, else the reservation. */
function reserve(quota: Quota, id: string, limits: Partial<TenantLimits>, nowMs = startMs, tokens = 1) {
  const all = { ...none, ...limits };
  const admitted = quota.admit(id, all, nowMs);
  if (admitted.refusal) return admitted;
  const reserved = quota.reserve(id, tokens, all, nowMs);
  if (reserved.refusal) quota.settle(id, 0, nowMs);
  return reserved;
}

test("says that a request which is larger than the limit never fits", () => {
  const limits = { tokensPerMinute: 100, tokensPerMonth: 1000 };
  const refusalOf = (requested: number) => reserve(new Quota(), "a", limits, startMs, requested).refusal;
  expect(refusalOf(101)).toMatchObject({ limit: "tokensPerMinute", requested: 101, retryAfterMs: null });
  expect(refusalOf(1001)).toMatchObject({ limit: "tokensPerMonth", retryAfterMs: null });
});

test("counts a running request until it is settled or its lease is over", () => {
  const quota = new Quota();
  const limits = { concurrentRequests: 2 };
  for (const id of ["a", "b"]) expect(reserve(quota, id, limits).refusal).toBeNull();
  expect(reserve(quota, "c", limits).refusal).toMatchObject({ limit: "concurrentRequests", used: 2, maximum: 2 });
  quota.settle("a", 1, startMs);
  expect(reserve(quota, "d", limits).refusal).toBeNull();
  // A renewal returns whether the request still runs.
  const renewed = ["a", "unknown", "b"].map((id) => quota.renew(id, startMs + reservationMs - 1));
  expect(renewed).toEqual([false, false, true]);
  // The lease of d, which was not renewed, is over; b was renewed.
  expect(reserve(quota, "e", limits, startMs + reservationMs).refusal).toBeNull();
  expect(reserve(quota, "f", limits, startMs + reservationMs).refusal).not.toBeNull();
});

test("counts an admitted request, whatever becomes of it, and frees its place", () => {
  const quota = new Quota();
  const limits = { requestsPerMinute: 2, tokensPerMinute: 10, concurrentRequests: 1 };
  expect(reserve(quota, "too large", limits, startMs, 11).refusal).toMatchObject({ limit: "tokensPerMinute" });
  expect(quota.admit("read", { ...none, ...limits }, startMs)).toMatchObject({
    refusal: null,
    requests: { remaining: 0 },
  });
  expect(reserve(quota, "b", limits).refusal).toMatchObject({ limit: "requestsPerMinute", used: 2 });
  quota.settle("read", 0, startMs);
  expect(quota.state.open).toEqual([]);
  expect(quota.state.seconds.map(([, second]) => second)).toEqual([{ requests: 2, tokens: 0 }]);
});

test("refuses every request once a month's tokens are used up, and only then", () => {
  const quota = new Quota();
  const limits = { ...none, tokensPerMonth: 100 };
  expect(quota.admit("a", limits, startMs).refusal).toBeNull();
  expect(quota.reserve("a", 100, limits, startMs).refusal).toBeNull();
  // Reserved tokens may be released again, so the next request is admitted. Only its reservation is refused.
  expect(quota.admit("b", limits, startMs).refusal).toBeNull();
  expect(quota.reserve("b", 1, limits, startMs).refusal).toMatchObject({ limit: "tokensPerMonth", used: 100 });
  quota.settle("a", 100, startMs);
  const retryAfterMs = Date.UTC(2026, 11) - startMs;
  expect(quota.admit("c", limits, startMs).refusal).toMatchObject({ used: 100, maximum: 100, retryAfterMs });
  expect(quota.admit("c", limits, startMs + retryAfterMs).refusal).toBeNull();
  const never = { ...none, tokensPerMonth: 0 };
  expect(new Quota().admit("d", never, startMs).refusal).toMatchObject({ maximum: 0, retryAfterMs: null });
});

test("counts tokens that are settled without a reservation, or after its lease", () => {
  const quota = new Quota();
  quota.settle("unlimited", 70, startMs);
  expect(reserve(quota, "a", { tokensPerMonth: 100 }, startMs, 31).refusal).toMatchObject({ used: 70 });
  expect(reserve(quota, "a", { tokensPerMinute: 100 }, startMs, 31).refusal).toMatchObject({ used: 70 });
});

test("counts in the minute, too, the tokens of a request that was released before", () => {
  const quota = new Quota();
  const limits = { tokensPerMinute: 100, concurrentRequests: 1 };
  reserve(quota, "left", limits, startMs, 100);
  quota.settle("left", 0, startMs + 1000, false);
  expect(quota.state).toMatchObject({ open: [], seconds: [[expect.any(Number), { tokens: 0 }]] });
  expect(quota.settle("left", 90, startMs + 2000)).toBe(true);
  expect(quota.settle("left", 90, startMs + 2000)).toBe(false);
  expect(reserve(quota, "next", limits, startMs + 2000, 11).refusal).toMatchObject({ used: 90 });
  // The tokens count from the request's end, not from its reservation.
  expect(reserve(quota, "later", limits, startMs + 62_999, 11).refusal).not.toBeNull();
  expect(reserve(quota, "on time", limits, startMs + 63_000, 11).refusal).toBeNull();
});

test("over any sequence of events: no 60 seconds and no moment hold more than the limits, and nothing is refused in vain", () => {
  const limits = { requestsPerMinute: 5, tokensPerMinute: 40, concurrentRequests: 3, tokensPerMonth: 400 };
  const event = fc.oneof(
    fc.record({ type: fc.constant("ask" as const), tokens: fc.integer({ min: 1, max: 30 }) }),
    fc.record({ type: fc.constant("settle" as const), pick: fc.nat(), share: fc.integer({ min: 0, max: 10 }) }),
    fc.record({ type: fc.constant("pass" as const), ms: fc.integer({ min: 1, max: 30_000 }) }),
  );
  const property = fc.property(fc.array(event, { maxLength: 120 }), (events) => {
    const quota = new Quota();
    let nowMs = startMs;
    /** What the quota must count: every granted request with the tokens that it holds now. */
    const granted: { id: string; atMs: number; tokens: number; open: boolean }[] = [];
    for (const [i, one] of events.entries()) {
      const running = granted.filter(({ open, atMs }) => open && atMs + reservationMs > nowMs);
      if (one.type === "pass") nowMs += one.ms;
      else if (one.type === "settle" && running.length > 0) {
        const ended = running[one.pick % running.length];
        ended.tokens = Math.floor((ended.tokens * one.share) / 10);
        ended.open = false;
        quota.settle(ended.id, ended.tokens, nowMs);
      } else if (one.type === "ask") {
        const requests = () => quota.state.seconds.reduce((total, [, second]) => total + second.requests, 0);
        const before = requests();
        const { refusal } = reserve(quota, `r${i}`, limits, nowMs, one.tokens);
        // When a request's lease is over, it no longer counts as running nor for the month, but its tokens still count for the minute.
        const charged = granted.filter(({ open, atMs }) => !open || atMs + reservationMs > nowMs);
        const sum = (list: { tokens: number }[]) => list.reduce((total, { tokens }) => total + tokens, 0);
        const within = (ms: number) => granted.filter(({ atMs }) => atMs > nowMs - ms);
        const fits = (ms: number) => {
          const isFree = running.length < 3 && within(ms).length < 5;
          return isFree && sum(within(ms)) + one.tokens <= 40 && sum(charged) + one.tokens <= 400;
        };
        if (!refusal) {
          expect(fits(60_000)).toBe(true);
          granted.push({ id: `r${i}`, atMs: nowMs, tokens: one.tokens, open: true });
        } else {
          expect(fits(61_000)).toBe(false);
          // An admitted request counts as a request even if its tokens do not fit.
          if (requests() > before) granted.push({ id: `r${i}`, atMs: nowMs, tokens: 0, open: false });
        }
        // After the retry time of a refusal the same limit does not refuse again if nothing else arrives.
        if (refusal?.retryAfterMs && refusal.limit !== "concurrentRequests") {
          const later = new Quota(JSON.parse(JSON.stringify(quota.state)));
          const again = reserve(later, "again", limits, nowMs + refusal.retryAfterMs, one.tokens);
          expect(again.refusal?.limit).not.toBe(refusal.limit);
        }
      }
    }
  });
  fc.assert(property, { numRuns: 500 }); // a failure prints its seed
});
