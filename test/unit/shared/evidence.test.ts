import fc from "fast-check";
import { expect, test } from "vitest";
import { evidenceSchema } from "../../../shared/artifacts/manifest.ts";
import {
  defaultCalibration,
  evidenceAround,
  evidencePositions,
  type MixtureWeights,
  positionsOfEvidence,
  priorsOf,
  weigh,
  withFloor,
} from "../../../shared/math/evidence.ts";

const seed = 20_261_129;
const nearOf = (similarity: number, isOff = false, ownHash: string | null = null) => ({ similarity, isOff, ownHash });
const sumOf = ({ base, adapters }: MixtureWeights) => adapters.reduce((a, b) => a + b, base);

const span = (from: number, to: number): [number, number] => [from, to];

test("positions of evidence stay at the same tokens when other tokens are inserted", () => {
  for (const at of [0, 1, 4, 7, 9, 12]) {
    for (const spans of [undefined, [span(1, 3)], [span(0, 4), span(5, 9)], [span(2, 20)]]) {
      const moved = evidenceAround({ tokens: 9, spans }, at, 5);
      const tokensOf = (ofTokens: number, ofSpans?: [number, number][]) =>
        positionsOfEvidence(ofTokens, ofSpans, 100).map((t) => t + 1);
      const before = tokensOf(9, spans).map((t) => (t >= at ? t + 5 : t));
      // If the insertion comes first, the prompt's first token is scored, too, since a token now comes before it.
      const first = at === 0 && (spans?.[0][0] ?? 0) === 0 ? [5] : [];
      expect(tokensOf(moved.tokens, moved.spans)).toEqual([...first, ...before]);
    }
  }
});

test("positions of evidence are all positions that have a next token, where there are few", () => {
  expect([0, 1, 2].map((tokens) => positionsOfEvidence(tokens))).toEqual([[], [], [0]]);
  expect(positionsOfEvidence(9)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
});

test("positions of evidence are evenly spread where there are many, rising, and end at the last", () => {
  for (const tokens of [18, 33, 64, 500, 1024]) {
    const positions = positionsOfEvidence(tokens);
    expect(positions).toHaveLength(evidencePositions);
    expect(positions.at(-1)).toBe(tokens - 2);
    const gaps = positions.map((t, i) => t - (positions[i - 1] ?? -1));
    expect(Math.max(...gaps) - Math.min(...gaps)).toBeLessThanOrEqual(1);
  }
});

test("positions of evidence are within the spans where there are some, and never beyond the first tokens", () => {
  expect(positionsOfEvidence(30, [[0, 30]])).toEqual(positionsOfEvidence(30));
  expect(positionsOfEvidence(9, [span(0, 2), span(4, 6), span(8, 20)])).toEqual([0, 3, 4, 7]);
  expect(positionsOfEvidence(9, [[9, 12]])).toEqual([]);
  const many = positionsOfEvidence(1024, [span(500, 520), span(900, 910)]);
  expect([many.length, many.at(-1)]).toEqual([evidencePositions, 908]);
  expect(many.filter((t) => (t >= 499 && t < 519) || (t >= 899 && t < 909))).toEqual(many);
});

const priors = [0.5, 0.3, 0.2];
const rule = { temper: 0.3, floor: 0.05 };

test("weighing without evidence leaves the priors", () => {
  const { weights, evidence } = weigh(priors, rule, []);
  [weights.base, ...weights.adapters].forEach((weight, e) => {
    expect(weight).toBeCloseTo(priors[e], 12);
  });
  expect(evidence).toEqual({ nats: 0, tokens: 0 });
});

test("weighing multiplies each prior by the expert's probabilities to the power of η, whatever the prompt's length", () => {
  // Two tokens. The second expert gives them 4 and 2 times the base's probability, the third expert 0.5 and 1 times.
  const logprobs = [
    [0.1, 0.4, 0.05],
    [0.2, 0.4, 0.2],
  ].map((one) => one.map(Math.log));
  const { weights, evidence } = weigh(priors, rule, logprobs);
  const unscaled = [0.5, 0.3 * 8 ** 0.3, 0.2 * 0.5 ** 0.3];
  const sum = unscaled.reduce((a, b) => a + b, 0);
  [weights.base, ...weights.adapters].forEach((weight, e) => {
    expect(weight).toBeCloseTo(unscaled[e] / sum, 12);
  });
  // The first token is predicted with the priors, the second with the weights after the first.
  const first = 0.3 * Math.log(4) - 0.2 * Math.log(2);
  const second = 0.3 * 4 ** 0.3;
  const gained = (second / (0.5 + second + 0.2 * 0.5 ** 0.3)) * Math.log(2);
  expect(evidence.tokens).toBe(2);
  expect(evidence.nats).toBeCloseTo((first + gained) / 2, 12);
});

test("weighing: whatever the experts say, weights add up to 1 and the base has its floor", () => {
  const logprob = fc.oneof(fc.double({ min: -1e300, max: 0, noNaN: true }), fc.constant(Number.NEGATIVE_INFINITY));
  fc.assert(
    fc.property(
      fc.array(fc.array(logprob, { minLength: 4, maxLength: 4 }), { maxLength: 15 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.double({ min: 0.01, max: 1, noNaN: true }),
      (logprobs, temper, floor) => {
        const { weights, evidence } = weigh([0.4, 0.3, 0.2, 0.1], { temper, floor }, logprobs);
        expect(sumOf(weights)).toBeCloseTo(1, 9);
        expect(weights.base).toBeGreaterThanOrEqual(floor - 1e-12);
        expect(evidence.nats).not.toBeNaN();
      },
    ),
    { seed, numRuns: 1000 },
  );
});

test("weighing: a result that is not a number shows in the evidence", () => {
  expect(weigh(priors, rule, [[-1, Number.NaN, -1]]).evidence.nats).toBeNaN();
});

test("given weights are served as they are, except for negligible ones", () => {
  expect(withFloor({ base: 0, adapters: [0.5, 0.5] }, 0)).toEqual({ base: 0, adapters: [0.5, 0.5] });
  const { base, adapters } = withFloor({ base: 0.6, adapters: [0.399, 0.001] }, 0.05);
  expect(adapters[1]).toBe(0);
  expect(base + adapters[0]).toBeCloseTo(1, 12);
  expect(withFloor({ base: 1, adapters: [] }, 0.05)).toEqual({ base: 1, adapters: [] });
});

test("a manifest may hold the default calibration; a centroid that is off leaves its prior to the base", () => {
  expect(evidenceSchema.safeParse(defaultCalibration).success).toBe(true);
  const near = (...off: number[]) => [0.9, 0.5, 0.1].map((similarity, k) => nearOf(similarity, off.includes(k)));
  const { base, fixed, adapters } = priorsOf(near(), false, defaultCalibration);
  expect([base, fixed]).toEqual([expect.closeTo(defaultCalibration.base, 12), 0]);
  expect(adapters.reduce((a, b) => a + b, base)).toBeCloseTo(1, 12);
  expect(adapters[0]).toBeGreaterThan(adapters[1]);
  const off = priorsOf(near(0), false, defaultCalibration);
  expect(off).toEqual({ base: expect.closeTo(base + adapters[0], 12), fixed: 0, adapters: adapters.slice(1) });
  expect(priorsOf(near(0, 1, 2), false, defaultCalibration)).toEqual({ base: 1, fixed: 0, adapters: [] });
  expect(priorsOf([], false, defaultCalibration)).toEqual({ base: 1, fixed: 0, adapters: [] });
});

test("an own adapter is likelier than a centroid as near, and has the static adapter's place in its share", () => {
  const near = [nearOf(0.7, false, "own"), nearOf(0.7), nearOf(0.7)];
  const { base, fixed, adapters } = priorsOf(near, true, defaultCalibration);
  expect(adapters.reduce((a, b) => a + b, base + fixed)).toBeCloseTo(1, 12);
  // Of what the base leaves, the own adapter has 5/7, the static adapter 1/7, and the two centroids 1/14 each.
  const left = 1 - base;
  expect(adapters).toEqual([(5 / 7) * left, left / 14, left / 14].map((prior) => expect.closeTo(prior, 12)));
  expect(fixed).toBeCloseTo(left / 7, 12);
  // For text of another kind the own adapter has next to no prior.
  expect(priorsOf([nearOf(0.1, false, "own"), nearOf(0.7)], true, defaultCalibration).adapters[0]).toBeLessThan(0.01);
});

test("a static adapter has half of what the base leaves, and the priors of centroids that are off", () => {
  const near = (...off: number[]) => [0.9, 0.5, 0.1].map((similarity, k) => nearOf(similarity, off.includes(k)));
  const { base, fixed, adapters } = priorsOf(near(), true, defaultCalibration);
  expect(base).toBe(defaultCalibration.base);
  expect(fixed).toBeCloseTo((1 - base) / 2, 12);
  expect(adapters.reduce((a, b) => a + b, base + fixed)).toBeCloseTo(1, 12);
  const off = priorsOf(near(0), true, defaultCalibration);
  expect(off).toEqual({ base, fixed: expect.closeTo(fixed + adapters[0], 12), adapters: adapters.slice(1) });
  expect(priorsOf(near(0, 1, 2), true, defaultCalibration)).toEqual({ base, fixed: 1 - base, adapters: [] });
});
