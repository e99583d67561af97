/** A tenant's limits divided among regions, over a network that loses, repeats and reorders messages. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Answer,
  amounts,
  Borrower,
  Lender,
  leaseOf,
  noAmounts,
  type Report,
} from "../../../edge/tenants/lease.ts";
import { type Amounts, Quota } from "../../../edge/tenants/quota.ts";
import type { TenantLimits } from "../../../shared/contracts/tenants.ts";

const startMs = Date.UTC(2026, 10, 25, 4);
const names: (keyof TenantLimits)[] = ["requestsPerMinute", "tokensPerMinute", "concurrentRequests", "tokensPerMonth"];

/** A region's ledger without its object: it asks the root until that gives no more. */
class Region {
  readonly quota = new Quota();
  borrower = new Borrower();
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  admit(id: string, tokens: number, limits: TenantLimits, nowMs: number): "admitted" | "refused" {
    const { share } = this.borrower;
    if (this.quota.admit(id, limits, nowMs, share).refusal) return "refused";
    if (!this.quota.reserve(id, tokens, limits, nowMs, share).refusal) return "admitted";
    this.quota.settle(id, 0, nowMs, false);
    return "refused";
  }
}

/** As ledger.ts does it, with every message delivered at once. */
function exchange(root: Lender, own: Quota, regions: readonly Region[], asking: Region, needs: Amounts, nowMs: number) {
  const report = asking.borrower.requestShare(limits, asking.quota.used(nowMs), needs);
  const lacking = root.lacking(asking.name, report, own.used(nowMs));
  for (const other of regions) {
    const given = other === asking ? null : other.borrower.returnUnused(other.quota.used(nowMs), lacking);
    if (given) root.decide(other.name, given, own.used(nowMs));
  }
  asking.borrower.applyAnswer(root.decide(asking.name, report, own.used(nowMs)));
}

const limits: TenantLimits = {
  requestsPerMinute: 120,
  tokensPerMinute: 4000,
  concurrentRequests: 100,
  tokensPerMonth: null,
};
const oneRequest = { ...noAmounts, requestsPerMinute: 1, concurrentRequests: 1, tokensPerMinute: 10 };

function burst(count: number, regionCount: number): number {
  const root = new Lender();
  const own = new Quota();
  const regions = Array.from({ length: regionCount }, (_, i) => new Region(`r${i}`));
  let admitted = 0;
  for (let i = 0; i < count; i++) {
    const region = regions[i % regionCount];
    for (let tries = 0; tries < 5; tries++) {
      if (region.admit(`${i}`, 10, limits, startMs) === "admitted") {
        admitted++;
        region.quota.settle(`${i}`, 10, startMs);
        break;
      }
      exchange(root, own, regions, region, oneRequest, startMs);
    }
  }
  return admitted;
}

describe("leases", () => {
  test("one active region admits exactly the limit", () => {
    expect(burst(500, 1)).toBe(120);
  });

  test("three active regions admit no more than the limit, and less by at most a lease each", () => {
    const admitted = burst(500, 3);
    expect(admitted).toBeLessThanOrEqual(120);
    expect(admitted).toBeGreaterThanOrEqual(120 - 3 * leaseOf(120));
  });

  test("a limit that is lowered holds once every region has seen it", () => {
    const root = new Lender();
    const regions = [new Borrower(), new Borrower()];
    const ask = (i: number, most: number, used: number) => {
      const of = (value: number) => ({ ...noAmounts, requestsPerMinute: value });
      const report = regions[i].requestShare({ ...limits, requestsPerMinute: most }, of(used), of(1));
      regions[i].applyAnswer(root.decide(`r${i}`, report, noAmounts));
    };
    for (const i of [0, 1, 0, 1]) ask(i, 100, 20);
    for (const i of [0, 1, 0]) ask(i, 30, 5);
    const sum = regions.reduce((total, { share }) => total + share.own.requestsPerMinute, 0);
    expect(sum).toBeLessThanOrEqual(30);
  });

  test("what another region holds above a limit that was lowered is asked back at once, not lease by lease", () => {
    const lender = new Lender<string>([["b", { number: 1, amounts: amounts(() => 40_000) }]]);
    const lowered = { ...limits, tokensPerMonth: 10_000 };
    const wants = amounts((limit) => (limit === "tokensPerMonth" ? 700 : 0));
    const report = { number: 1, limits: lowered, held: noAmounts, wants };
    expect(lender.lacking("a", report, noAmounts).tokensPerMonth).toBe(30_700);
  });

  test("a region whose storage is lost catches up with the root's count of its reports", () => {
    const root = new Lender();
    const before = new Borrower();
    for (let i = 0; i < 5; i++)
      before.applyAnswer(root.decide("a", before.requestShare(limits, noAmounts, oneRequest), noAmounts));
    const after = new Borrower();
    expect(after.applyAnswer(root.decide("a", after.requestShare(limits, noAmounts, oneRequest), noAmounts))).toBe(
      false,
    );
    expect(after.applyAnswer(root.decide("a", after.requestShare(limits, noAmounts, oneRequest), noAmounts))).toBe(
      true,
    );
  });

  test("over lost, repeated and reordered messages: never over a limit, and no use is lost or counted twice", () => {
    const small: TenantLimits = {
      requestsPerMinute: 12,
      tokensPerMinute: 60,
      concurrentRequests: 5,
      tokensPerMonth: 400,
    };
    const event = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({ type: fc.constant("admit" as const), tokens: fc.integer({ min: 1, max: 12 }) }),
      },
      { weight: 5, arbitrary: fc.record({ type: fc.constant("settle" as const), pick: fc.nat(), share: fc.nat(10) }) },
      { weight: 4, arbitrary: fc.record({ type: fc.constant("ask" as const), tokens: fc.nat(24) }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant("recall" as const), lacking: fc.nat(30) }) },
      {
        weight: 8,
        arbitrary: fc.record({ type: fc.constant("deliver" as const), pick: fc.nat(), repeat: fc.boolean() }),
      },
      { weight: 1, arbitrary: fc.record({ type: fc.constant("lose" as const), pick: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant("restart" as const) }) },
      {
        weight: 2,
        arbitrary: fc.record({ type: fc.constant("pass" as const), ms: fc.integer({ min: 1, max: 20_000 }) }),
      },
    );
    const events = fc.array(fc.tuple(fc.nat(2), event), { minLength: 100, maxLength: 300, size: "max" });
    let admitted = 0;
    const property = fc.property(events, (steps) => {
      let nowMs = startMs;
      const root = new Lender();
      const own = new Quota();
      const regions = ["a", "b", "c"].map((name) => new Region(name));
      type Message = { to: "root"; report: Report } | { to: "region"; answer: Answer };
      const network: { region: Region; message: Message }[] = [];
      /** The model: everything that was admitted. */
      const granted: { region: Region; id: string; atMs: number; tokens: number; settled: boolean }[] = [];
      const settlements: { region: Region; id: string; tokens: number }[] = [];
      const ask = (region: Region, tokens: number) => {
        // A region waits for its answer, and asks anew after a while.
        if (tokens % 8 > 0 && network.some((sent) => sent.region === region)) return;
        const needs = { requestsPerMinute: 1, concurrentRequests: 1, tokensPerMinute: tokens, tokensPerMonth: tokens };
        const report = region.borrower.requestShare(small, region.quota.used(nowMs), needs);
        network.push({ region, message: { to: "root", report } });
      };
      for (const [i, [at, step]] of steps.entries()) {
        const region = regions[at];
        if (step.type === "pass") nowMs += step.ms;
        else if (step.type === "restart") region.borrower = new Borrower(structuredClone(region.borrower.state));
        else if (step.type === "lose") network.splice(step.pick % Math.max(1, network.length), 1);
        else if (step.type === "ask") ask(region, step.tokens);
        else if (step.type === "recall") {
          const report = region.borrower.returnUnused(
            region.quota.used(nowMs),
            amounts(() => step.lacking),
          );
          if (report) network.push({ region, message: { to: "root", report } });
        } else if (step.type === "deliver" && network.length > 0) {
          const [delivered] = step.repeat
            ? [network[step.pick % network.length]]
            : network.splice(step.pick % network.length, 1);
          const { region: its, message } = delivered;
          if (message.to === "region") its.borrower.applyAnswer(message.answer);
          else {
            const answer = root.decide(its.name, message.report, own.used(nowMs));
            network.push({ region: its, message: { to: "region", answer } });
          }
        } else if (step.type === "admit") {
          const outcome = region.admit(`${i}`, step.tokens, small, nowMs);
          if (outcome === "refused") ask(region, step.tokens);
          else granted.push({ region, id: `${i}`, atMs: nowMs, tokens: step.tokens, settled: false });
        } else if (step.type === "settle" && granted.length > 0) {
          const one = granted[step.pick % granted.length];
          const tokens = Math.floor((one.tokens * step.share) / 10);
          // A settlement may arrive twice: only the first one counts.
          const isFirst = one.region.quota.settle(one.id, one.settled ? one.tokens : tokens, nowMs);
          expect(isFirst).toBe(!one.settled);
          if (one.settled) continue;
          one.settled = true;
          one.tokens = tokens;
          settlements.push({ region: one.region, id: one.id, tokens });
        }
        if (step.type !== "admit") continue;
        const within = granted.filter(({ atMs }) => atMs > nowMs - 60_000);
        const sum = (list: { tokens: number }[]) => list.reduce((total, { tokens }) => total + tokens, 0);
        const running = granted.filter(({ settled, atMs }) => !settled && atMs + 120_000 > nowMs);
        const charged = granted.filter(({ settled, atMs }) => settled || atMs + 120_000 > nowMs);
        expect(within.length).toBeLessThanOrEqual(small.requestsPerMinute!);
        expect(sum(within)).toBeLessThanOrEqual(small.tokensPerMinute!);
        expect(running.length).toBeLessThanOrEqual(small.concurrentRequests!);
        expect(sum(charged)).toBeLessThanOrEqual(small.tokensPerMonth!);
        // What a region may use is always lent to it.
        for (const limit of names) {
          const total = regions.reduce((all, { borrower }) => all + borrower.share.own[limit], 0);
          expect(total).toBeLessThanOrEqual(small[limit]!);
        }
      }
      const used = regions.reduce((total, { quota }) => total + (quota.state.months[0]?.[1] ?? 0), 0);
      expect(used).toBe(settlements.reduce((total, { tokens }) => total + tokens, 0));
      admitted += granted.length;
    });
    fc.assert(property, { numRuns: 100 }); // a failure prints its seed
    expect(admitted).toBeGreaterThan(100);
  });
});
