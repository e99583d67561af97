import { expect, test } from "vitest";
import { type HeldSet, planSets } from "../../../../../gpu-backend/host/sets/serving-sets.ts";
import { seededRandom } from "../../../../support/steps.ts";

const limits = { sets: 2, graceMs: 100 };
const set = (manifestHash: string, usedMs: number, openSequences = 0): HeldSet => ({
  manifestHash,
  openSequences,
  usedMs,
  isServing: true,
});
const down = (manifestHash: string, usedMs: number): HeldSet => ({ ...set(manifestHash, usedMs), isServing: false });

const cases: [string, HeldSet[], { start: boolean; retire: string[] }][] = [
  ["the first set is started", [], { start: true, retire: [] }],
  ["the wanted set is started beside another", [set("old", 1000)], { start: true, retire: [] }],
  ["the old set stays during the grace period", [set("old", 901), set("new", 0)], { start: false, retire: [] }],
  ["the old set ends after the grace period", [set("old", 900), set("new", 0)], { start: false, retire: ["old"] }],
  ["a set with open sequences does not end", [set("old", 0, 1), set("new", 0)], { start: false, retire: [] }],
  ["the wanted set never ends, however idle", [set("new", 0)], { start: false, retire: [] }],
  ["the set used longest ago makes room", [set("b", 990), set("a", 980)], { start: true, retire: ["a"] }],
  ["a busy set does not make room", [set("b", 990), set("a", 980, 3)], { start: true, retire: ["b"] }],
  ["no set ends while the wanted one restarts", [set("old", 0), down("new", 0)], { start: false, retire: [] }],
  ["a set that restarts makes room first", [down("b", 990), set("a", 980)], { start: true, retire: ["b"] }],
  ["if all are busy, the wanted set waits", [set("b", 990, 1), set("a", 980, 3)], { start: false, retire: [] }],
];
test.each(cases)("%s", (_, held, plan) => {
  expect(planSets(held, "new", 1000, limits)).toEqual(plan);
});

test("whatever is held, the bound is kept, whoever could serve still can, and nothing that is busy or wanted ends", () => {
  const seed = 1731;
  const random = seededRandom(seed);
  for (let i = 0; i < 5000; i++) {
    const held = Array.from({ length: 1 + Math.floor(random() * 4) }, (_, n) => {
      const usedMs = Math.floor(random() * 1000);
      return random() < 0.3 ? down(`s${n}`, usedMs) : set(`s${n}`, usedMs, random() < 0.4 ? 1 : 0);
    });
    const bounds = { sets: Math.max(2, held.length), graceMs: Math.floor(random() * 500) };
    const wanted = `s${Math.floor(random() * 5)}`;
    const { start, retire } = planSets(held, wanted, 1000, bounds);
    const left = held.filter(({ manifestHash }) => !retire.includes(manifestHash));
    expect(left.length + (start ? 1 : 0)).toBeLessThanOrEqual(bounds.sets);
    expect(left.length).toBeGreaterThan(0);
    expect(left.some(({ isServing }) => isServing)).toBe(held.some(({ isServing }) => isServing));
    expect(retire).not.toContain(wanted);
    for (const one of held) if (retire.includes(one.manifestHash)) expect(one.openSequences).toBe(0);
    if (start) expect(held.map(({ manifestHash }) => manifestHash)).not.toContain(wanted);
  }
});
