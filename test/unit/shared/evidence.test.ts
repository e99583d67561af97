import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { evidenceSchema } from "../../../shared/artifacts/manifest.ts";
import {
  defaultCalibration,
  evidencePositions,
  type MixtureWeights,
  marginOf,
  mixedProbability,
  pointerMass,
  positionsOfEvidence,
  priorsOf,
  ruleFor,
  type TokenEvidence,
  weigh,
  withFloor,
} from "../../../shared/math/evidence.ts";

const seed = 20_261_126;
const sumOf = ({ base, adapters, pointer }: MixtureWeights) => base + adapters.reduce((a, b) => a + b, 0) + pointer;
const rule = (tokens: number, temper: number, floor = 0.05) => ({
  ...{ tokens, temper, floor },
  pointer: {
    ...{ sharpness: 15, sentinel: 0.01 },
    shares: [0, 0.1, 0.3].map((share) => ({ share, prior: share === 0 ? 0.6 : 0.2 })),
  },
});
/** All of its attention is on positions. */
const finds = (found: number) => ({ all: 1, found });
const same = (expert: number, n = 16): TokenEvidence[] =>
  Array.from({ length: n }, () => ({ experts: [0.01, 0.01, 0.01].with(expert, 0.2), pointer: finds(0) }));

describe("positions of evidence", () => {
  test("are all positions that have a next token, where there are few", () => {
    expect(positionsOfEvidence(0)).toEqual([]);
    expect(positionsOfEvidence(1)).toEqual([]);
    expect(positionsOfEvidence(2)).toEqual([0]);
    expect(positionsOfEvidence(9)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  test("else are evenly spread over the last half, rising, and end at the last", () => {
    for (const tokens of [18, 33, 64, 500, 1024]) {
      const positions = positionsOfEvidence(tokens);
      expect(positions).toHaveLength(evidencePositions);
      expect(positions.at(-1)).toBe(tokens - 2);
      const first = Math.min(Math.floor((tokens - 1) / 2), tokens - 1 - evidencePositions);
      expect(positions[0]).toBeGreaterThanOrEqual(first);
      const gaps = positions.map((t, i) => t - (positions[i - 1] ?? first - 1));
      expect(Math.max(...gaps) - Math.min(...gaps)).toBeLessThanOrEqual(1);
    }
  });

  test("are within the spans where there are some, and never beyond the first tokens", () => {
    expect(positionsOfEvidence(30, [[0, 30]])).toEqual(positionsOfEvidence(30));
    expect(
      positionsOfEvidence(9, [
        [0, 2],
        [4, 6],
        [8, 20],
      ]),
    ).toEqual([0, 3, 4, 7]);
    expect(positionsOfEvidence(9, [[9, 12]])).toEqual([]);
    const many = positionsOfEvidence(1024, [
      [10, 40],
      [500, 1000],
    ]);
    expect([many.length, many.at(-1)]).toEqual([evidencePositions, 998]);
    expect(many.filter((t) => t >= 499 && t < 999)).toEqual(many);
    const across = positionsOfEvidence(1024, [
      [500, 520],
      [900, 910],
    ]);
    expect(across.filter((t) => (t >= 499 && t < 519) || (t >= 899 && t < 909))).toEqual(across);
    expect(across.filter((t) => t < 519)).toHaveLength(evidencePositions - 10);
  });
});

describe("weighing", () => {
  test("counts each token of the spans once, however many are looked at", () => {
    const whole = weigh([0.4, 0.3, 0.3], rule(5, 0.2), same(1, 4));
    const within = weigh([0.4, 0.3, 0.3], { ...rule(50, 0.2), spans: [[20, 24]] }, same(1, 4));
    expect(within).toEqual(whole);
  });

  test("without evidence leaves the priors", () => {
    const { weights, evidence } = weigh([0.5, 0.3, 0.2], rule(1, 0.2), []);
    expect(weights.base).toBeCloseTo(0.5, 12);
    expect(weights.adapters[0]).toBeCloseTo(0.3, 12);
    expect(weights.pointer).toBe(0);
    expect(evidence).toEqual({ nats: 0, tokens: 0 });
  });

  test("goes to the expert that predicts the prompt; the pointer takes a share only where it does, too", () => {
    for (const expert of [0, 1, 2]) {
      const { weights, evidence } = weigh([0.4, 0.3, 0.3], rule(65, 0.2), same(expert));
      const all = [weights.base, ...weights.adapters];
      expect(all.indexOf(Math.max(...all))).toBe(expert);
      expect(weights.pointer).toBeLessThan(0.05);
      if (expert === 0) expect(evidence.nats).toBeLessThanOrEqual(0);
      else expect(evidence.nats).toBeGreaterThan(0.5);
    }
    const copying = same(0).map((one) => ({ ...one, pointer: finds(0.9) }));
    expect(weigh([0.4, 0.3, 0.3], rule(65, 0.2), copying).weights.pointer).toBeGreaterThan(0.2);
  });

  test("looked at 16 or at all positions, equal evidence weighs the same", () => {
    const few = weigh([0.4, 0.3, 0.3], rule(65, 0.02), same(1, 16)).weights;
    const all = weigh([0.4, 0.3, 0.3], rule(65, 0.02), same(1, 64)).weights;
    expect(few.base).toBeCloseTo(all.base, 10);
  });

  test("the gain on the prompt is each token's under the weights of those before it", () => {
    const one: TokenEvidence[] = [{ experts: [0.1, 0.4], pointer: finds(0) }];
    const { evidence } = weigh(
      [0.5, 0.5],
      { ...rule(2, 1), pointer: { sharpness: 15, shares: [{ share: 0, prior: 1 }] } },
      one,
    );
    // The first token is seen under the priors.
    expect(evidence.nats).toBeCloseTo(Math.log(0.25 / 0.1), 12);
  });

  test("each nat by which the base is more surprised than is typical divides the odds of no pointer by e", () => {
    // Nothing else weighs: η is 0.
    const priors = rule(65, 0);
    const shareOf = (surprisal: number, typicalSurprisal?: number) => {
      const p = Math.exp(-surprisal);
      const tokenEvidence = Array.from({ length: 15 }, () => ({ experts: [p, p], pointer: finds(p) }));
      const { weights } = weigh(
        [0.5, 0.5],
        { ...priors, pointer: { ...priors.pointer, typicalSurprisal } },
        tokenEvidence,
      );
      return weights.pointer;
    };
    // The shares .1 and .3, with priors of .2 each beside .6 for none.
    const expected = (nats: number) => (0.2 * (0.1 + 0.3)) / (0.4 + 0.6 * Math.exp(-nats));
    expect(shareOf(5)).toBeCloseTo(expected(0), 9);
    expect(shareOf(5, 5)).toBeCloseTo(expected(0), 9);
    expect(shareOf(6, 5)).toBeCloseTo(expected(1), 9);
    expect(shareOf(3.5, 5)).toBeCloseTo(expected(-1.5), 9);
  });

  test("the gain on the prompt goes by what surprised the base before each token alone", () => {
    const priors = rule(65, 0.2);
    const surprised = { ...priors, pointer: { ...priors.pointer, typicalSurprisal: 2 } };
    const tokenEvidence = [0.5, 0.001, 0.02, 0.3].map((p) => ({ experts: [p, p / 2], pointer: finds(0.4) }));
    const gainOf = (n: number, last = tokenEvidence[n - 1]) =>
      n * weigh([0.5, 0.5], surprised, [...tokenEvidence.slice(0, n - 1), last]).evidence.nats;
    // Of the first token nothing is known before: the priors as they are.
    const [first] = tokenEvidence;
    const mixed = 0.75 * first.experts[0] * 0.92 + 0.4 * 0.08;
    expect(gainOf(1)).toBeCloseTo(Math.log(mixed / first.experts[0]), 12);
    // Of the second token the first's surprisal is known, less than is typical; η · 64 / 2 of the evidence counts for it.
    const likelihood = (expert: number, share: number) => (1 - share) * first.experts[expert] + share * 0.4;
    const pairs = [0, 1].flatMap((expert) =>
      surprised.pointer.shares.map(({ share, prior }) => ({
        ...{ expert, share },
        weight:
          0.5 * prior * likelihood(expert, share) ** 6.4 * (share === 0 ? Math.exp(2 + Math.log(first.experts[0])) : 1),
      })),
    );
    const [, { experts }] = tokenEvidence;
    const all = pairs.reduce((sum, { weight }) => sum + weight, 0);
    const p = pairs.reduce(
      (sum, { expert, share, weight }) => sum + weight * ((1 - share) * experts[expert] + share * 0.4),
      0,
    );
    expect(gainOf(2) - Math.log(mixed / first.experts[0])).toBeCloseTo(Math.log(p / all / experts[0]), 9);
    // How much the last one surprises the base changes only what the experts say of it.
    const third = gainOf(3) - gainOf(2);
    const more = gainOf(3, { experts: [0.002, 0.001], pointer: finds(0.04) }) - gainOf(2);
    expect(more).toBeCloseTo(third, 9);
  });

  test("whatever the experts say, weights add up to 1, the base has its floor, and no token costs more than it allows", () => {
    const p = fc.double({ min: 0, max: 1, noNaN: true });
    const pointer = fc.tuple(p, p).map(([all, part]) => ({ all, found: all * part }));
    const oneToken = fc.record({ experts: fc.array(p, { minLength: 4, maxLength: 4 }), pointer });
    fc.assert(
      fc.property(
        fc.array(oneToken, { maxLength: 16 }),
        fc.integer({ min: 1, max: 1024 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 0.01, max: 1, noNaN: true }),
        fc.option(fc.double({ min: 0, max: 100, noNaN: true }), { nil: undefined }),
        oneToken,
        (tokenEvidence, tokens, temper, floor, typicalSurprisal, next) => {
          const { pointer, ...others } = rule(tokens, temper, floor);
          const priors = { ...others, pointer: { ...pointer, typicalSurprisal } };
          const { weights } = weigh([0.4, 0.3, 0.2, 0.1], priors, tokenEvidence);
          expect(sumOf(weights)).toBeCloseTo(1, 9);
          expect(weights.base).toBeGreaterThanOrEqual(floor - 1e-12);
          expect(mixedProbability(weights, next)).toBeGreaterThanOrEqual(floor * next.experts[0] * (1 - 1e-9));
        },
      ),
      { seed, numRuns: 1000 },
    );
  });
});

test("the pointer copies what followed positions of the prompt like this one, and nothing after the prompt", () => {
  const sharpness = 15;
  // Positions 0 and 3 have one key, 1 and 2 another; ids 7 8 9 7 8. What lies beyond a position is not looked at.
  const cosines = [[Number.NaN], [], [], [1, 0, 0, Number.NaN]];
  const ids = [7, 8, 9, 7, 8];
  const at = (position: number, tokens: number) => pointerMass(cosines[position], ids, position, { tokens, sharpness });
  // After the second 7 comes 8, as after the first.
  expect(at(3, 4).found).toBeGreaterThan(0.99);
  expect(at(3, 4).all).toBe(1);
  expect(at(0, 4)).toEqual({ all: 0, found: 0 });
  // Of a prompt of two tokens one position may be copied: its 8.
  expect(at(3, 2).found).toBe(1);
  expect(at(3, 1).found).toBe(0);
});

test("the sentinel takes the attention where no position is like this one, and what it takes the experts give", () => {
  const at = (cosine: number, sentinel: number) =>
    pointerMass([cosine], [7, 8, 8], 1, { tokens: 3, sharpness: 15, sentinel });
  // exp(15 · (1 − 1)) beside a sentinel of a quarter.
  expect(at(1, 0.25)).toEqual({ all: 0.8, found: 0.8 });
  expect(at(0, 0.25).all).toBeLessThan(1e-5);
  const weights = { base: 0.3, adapters: [0.3], pointer: 0.4 };
  const probability = (pointer: { all: number; found: number }) =>
    mixedProbability(weights, { experts: [0.1, 0.3], pointer });
  expect(probability({ all: 0, found: 0 })).toBeCloseTo(0.2, 12);
  expect(probability({ all: 1, found: 0 })).toBeCloseTo(0.6 * 0.2, 12);
  expect(probability({ all: 0.5, found: 0.25 })).toBeCloseTo(0.8 * 0.2 + 0.4 * 0.25, 12);
});

test("given weights are served as they are, but for what weighs next to nothing", () => {
  expect(withFloor({ base: 0, adapters: [0.5, 0.5], pointer: 0 }, 0)).toEqual({
    base: 0,
    adapters: [0.5, 0.5],
    pointer: 0,
  });
  const { base, adapters, pointer } = withFloor({ base: 0.6, adapters: [0.399, 0.001], pointer: 0 }, 0.05);
  expect(adapters[1]).toBe(0);
  expect(base + adapters[0] + pointer).toBeCloseTo(1, 12);
  expect(withFloor({ base: 1, adapters: [], pointer: 0 }, 0.05)).toEqual({ base: 1, adapters: [], pointer: 0 });
});

describe("a prompt's margin", () => {
  const row = { promptTokens: 0, base: 0.8, noPointer: 0.7, temper: 0.1 };
  const calibration = { ...defaultCalibration, marginScale: 5 };
  const typical = { margin: 0.2, surprisal: 4.5 };
  const oddsOf = (probability: number) => probability / (1 - probability);

  test("is between its two nearest centroids, and there is none where there is one centroid", () => {
    expect(marginOf([{ similarity: 0.75 }, { similarity: 0.5 }, { similarity: -1 }])).toBe(0.25);
    expect(marginOf([{ similarity: 0.75 }])).toBeNull();
    expect(marginOf([])).toBeNull();
  });

  test("lowers the odds of the base where it is more than is typical, and raises them where it is less", () => {
    const odds = (margin: number | null, base = 0.8) =>
      oddsOf(ruleFor({ ...calibration, byLength: [{ ...row, base, typical }] }, 64, margin).basePrior);
    expect(odds(0.2)).toBeCloseTo(4, 12);
    expect(odds(0.4)).toBeCloseTo(4 * Math.exp(-1), 12);
    expect(odds(0)).toBeCloseTo(4 * Math.exp(1), 12);
    expect(odds(null)).toBeCloseTo(4, 12);
    // Priors of 0 and 1 stay as they are.
    expect([odds(0.4, 0), odds(0, 1)]).toEqual([0, Number.POSITIVE_INFINITY]);
  });

  test("and what surprises the base say nothing of a prompt that is shorter than the first row", () => {
    const rows = [
      { ...row, promptTokens: 8, typical: { margin: 0.1, surprisal: 5.5 } },
      { ...row, promptTokens: 64, typical },
    ];
    const ruleAt = (tokens: number) => ruleFor({ ...calibration, byLength: rows }, tokens, 0.4);
    const [short, first, second] = [7, 8, 64].map(ruleAt);
    expect(short.basePrior).toBe(0.8);
    expect(short.pointer).not.toHaveProperty("typicalSurprisal");
    expect(oddsOf(first.basePrior)).toBeCloseTo(4 * Math.exp(-1.5), 12);
    expect(oddsOf(second.basePrior)).toBeCloseTo(4 * Math.exp(-1), 12);
    expect([first.pointer.typicalSurprisal, second.pointer.typicalSurprisal]).toEqual([5.5, 4.5]);
  });

  test("changes nothing where a manifest does not say what is typical, or gives it no scale", () => {
    expect(ruleFor({ ...calibration, byLength: [row] }, 64, 0.9).basePrior).toBe(0.8);
    const { marginScale: _, ...without } = calibration;
    expect(ruleFor({ ...without, byLength: [{ ...row, typical }] }, 64, 0.9).basePrior).toBeCloseTo(0.8, 12);
  });
});

test("the floor is the row's own, or that of all lengths", () => {
  const row = { base: 0.8, noPointer: 0.7, temper: 0.1 };
  const byLength = [
    { ...row, promptTokens: 8 },
    { ...row, promptTokens: 64, floor: 0.2 },
  ];
  const floorAt = (tokens: number) => ruleFor({ ...defaultCalibration, floor: 0.05, byLength }, tokens, null).floor;
  expect([1, 8, 63, 64, 500].map(floorAt)).toEqual([0.05, 0.05, 0.05, 0.2, 0.2]);
});

test("a rule has a sentinel and a typical surprisal only where its manifest's calibration has them", () => {
  expect(ruleFor(defaultCalibration, 64, null).pointer).not.toHaveProperty("sentinel");
  expect(ruleFor(defaultCalibration, 64, null).pointer).not.toHaveProperty("typicalSurprisal");
  const byLength = defaultCalibration.byLength.map((row) => ({ ...row, typical: { margin: 0, surprisal: 4 } }));
  expect(ruleFor({ ...defaultCalibration, byLength }, 64, null).pointer.typicalSurprisal).toBe(4);
  expect(ruleFor({ ...defaultCalibration, sentinel: 0.1 }, 64, null).pointer.sentinel).toBe(0.1);
});

test("the default calibration is one that a manifest may hold, and gives short prompts to the base", () => {
  expect(evidenceSchema.safeParse(defaultCalibration).success).toBe(true);
  expect(ruleFor(defaultCalibration, 8, null).basePrior).toBeGreaterThan(
    ruleFor(defaultCalibration, 64, null).basePrior,
  );
  for (const tokens of [0, 1, 8, 64, 1024]) {
    const { pointer, basePrior } = ruleFor(defaultCalibration, tokens, null);
    expect(pointer.shares.reduce((sum, { prior }) => sum + prior, 0)).toBeCloseTo(1, 12);
    const near = (...off: number[]) => [0.9, 0.5, 0.1].map((similarity, k) => ({ similarity, isOff: off.includes(k) }));
    const [base, ...adapters] = priorsOf(near(), basePrior, defaultCalibration);
    expect(base).toBeCloseTo(basePrior, 12);
    expect(adapters.reduce((a, b) => a + b, base)).toBeCloseTo(1, 12);
    expect(adapters[0]).toBeGreaterThan(adapters[1]);
    const [withOff, ...others] = priorsOf(near(0), basePrior, defaultCalibration);
    expect(withOff).toBeCloseTo(basePrior + adapters[0], 12);
    expect(others).toEqual(adapters.slice(1));
    expect(priorsOf(near(0, 1, 2), basePrior, defaultCalibration)).toEqual([1]);
    expect(priorsOf([], basePrior, defaultCalibration)).toEqual([1]);
  }
});
