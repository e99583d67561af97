import { expect, test } from "vitest";
import { type HeldSet, planSets } from "../../../../../gpu-backend/host/sets/serving-sets.ts";
import { seededRandom } from "../../../../support/steps.ts";

const set = (manifestHash: string, usedMs: number, openSequences = 0): HeldSet => ({
  manifestHash,
  openSequences,
  usedMs,
  isServing: true,
});
const down = (manifestHash: string, usedMs: number): HeldSet => ({ ...set(manifestHash, usedMs), isServing: false });

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
