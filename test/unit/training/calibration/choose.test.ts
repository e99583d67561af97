/** Calibration on made-up trials, of which the best answer is known. */
import { expect, test } from "vitest";
import {
  calibrationOf,
  choose,
  type GroupedTrial,
  gainOf,
  measureGrid,
  nearestAlone,
  weightsOf,
} from "../../../../gpu-backend/training/calibration/choose.ts";
import { manifestSchema } from "../../../../shared/artifacts/manifest.ts";
import { positionsOfEvidence, type TokenEvidence } from "../../../../shared/math/evidence.ts";
import { seededRandom } from "../../../support/steps.ts";

const base = 0.01;
/** What each of two adapters and the pointer say, as multiples of the base's probability. */
const says = (adapter: number, pointer = 0): TokenEvidence => ({
  experts: [base, adapter * base, adapter * base],
  pointer: { all: 1, found: pointer * base },
});

function trialsOf(
  group: string,
  evidence: TokenEvidence,
  continuation: TokenEvidence,
  { isServed = false, promptTokens = 16, margin }: { isServed?: boolean; promptTokens?: number; margin?: number } = {},
): GroupedTrial[] {
  return Array.from({ length: 20 }, (_, i) => ({
    ...{ group, family: group, isServed, document: `${group}/${i}`, corpus: 0, promptTokens },
    // Without a margin there is one centroid, so the second adapter is no expert.
    nearest: [0.5, ...(margin === undefined ? [] : [0.5 - margin])].map((similarity) => ({ similarity, isOff: false })),
    evidence: positionsOfEvidence(promptTokens).map(() => evidence),
    continuation: Array.from({ length: 16 }, () => continuation),
  }));
}

function chosen(...trials: GroupedTrial[][]) {
  const measured = [measureGrid(trials[0][0].promptTokens, trials.flat())];
  return calibrationOf(measured, choose(measured)).byLength[0];
}

test("the base keeps as much as the text that loses needs, and no more", () => {
  // The evidence says nothing. A weight of 1 − w on an adapter of .92 times the base loses −log(1 − .08 (1 − w)): .008 where w is .9, .016 where it is .8.
  const loses = trialsOf("loses", says(1), says(0.92));
  const gains = trialsOf("gains", says(1), says(2));
  expect(chosen(loses, gains).base).toBe(0.9);
  expect(chosen(gains).base).toBe(0.3);
});

test("where all choices harm, the one that harms least is taken", () => {
  const row = chosen(trialsOf("loses", says(1), says(0.01)), trialsOf("gains", says(1), says(3)));
  expect(row.base).toBe(0.95);
});

test("where all choices harm, a thousandth of a nat more of it outweighs no gain", () => {
  const copies = trialsOf("copies", says(1), says(1, 50));
  // With a prior of .95 the base and an adapter of .2 times its probability give .96 times it. A pointer of .955 times it loses
  // .0007 where it has most weight, and one of .5 times it .06.
  const loses = (pointer: number) => trialsOf("loses", says(1), says(0.2, pointer));
  expect(chosen(loses(0.955), copies).noPointer).toBe(0.3);
  expect(chosen(loses(0.5), copies).noPointer).toBe(0.95);
});

test("a pointer that never finds a token is used least, one that always does is used most", () => {
  expect(chosen(trialsOf("new", says(1, 1), says(1, 0))).noPointer).toBe(0.95);
  expect(chosen(trialsOf("copied", says(1, 1), says(1, 50))).noPointer).toBe(0.3);
});

test("evidence counts much where it is right, and little where it misleads", () => {
  const right = [trialsOf("gains", says(2), says(2)), trialsOf("loses", says(0.5), says(0.5))];
  expect(chosen(...right).temper).toBe(0.7);
  const misleads = [trialsOf("gains", says(0.5), says(2)), trialsOf("loses", says(2), says(0.5))];
  expect(chosen(...misleads).temper).toBe(0.05);
});

test("what is typical of a prompt is the mean over groups, whatever their number of texts, without text of the served bank", () => {
  const typicalOf = (...trials: GroupedTrial[][]) => measureGrid(16, trials.flat()).typical;
  const known = trialsOf("known", says(1), says(2), { margin: 0.4 });
  const unknown = trialsOf("unknown", { experts: [0.001, 0.01], pointer: { all: 1, found: 0 } }, says(1), {
    margin: 0.1,
  });
  const ofServed = trialsOf("served", says(0.5), says(1), { margin: 0.9, isServed: true });
  const expected = { margin: 0.25, surprisal: (Math.log(1 / known[0].evidence[0].experts[0]) + Math.log(1000)) / 2 };
  for (const trials of [
    [known, unknown],
    [known.slice(0, 3), unknown],
    [known, unknown, ofServed],
  ]) {
    const typical = typicalOf(...trials);
    expect(typical.margin).toBeCloseTo(expected.margin, 3);
    expect(typical.surprisal).toBeCloseTo(expected.surprisal, 3);
  }
});

test("where text that adapters harm lies between centroids, text that is clearly nearest to one gains more", () => {
  const gainWith = (ofKnown: number, ofOther: number) => {
    const known = trialsOf("known", says(1), says(3), { margin: ofKnown });
    const measured = [measureGrid(16, [...known, ...trialsOf("loses", says(1), says(0.92), { margin: ofOther })])];
    const [{ floor, candidate }] = choose(measured);
    const gains = measured[0].gains[floor][candidate];
    expect(gains[gains.length - 1]).toBeGreaterThan(-0.01 - 1e-6);
    return gains[0];
  };
  const [clear, same, reversed] = [gainWith(0.4, 0.05), gainWith(0.2, 0.2), gainWith(0.05, 0.4)];
  console.log(
    `gain ${clear.toFixed(3)} where margins tell, ${same.toFixed(3)} where not, ${reversed.toFixed(3)} where they mislead`,
  );
  expect(clear).toBeGreaterThan(3 * same);
  expect(reversed).toBeLessThan(same / 3);
});

test("the floor of each length is as high as costs nothing", () => {
  // Without evidence the base has a weight of .3 at least, so no floor changes anything.
  const short = trialsOf("gains", says(1), says(2), { promptTokens: 16 });
  const long = trialsOf("gains", says(20), says(20), { promptTokens: 64 });
  const measured = [measureGrid(16, short), measureGrid(64, long)];
  const { floor, byLength } = calibrationOf(measured, choose(measured));
  expect(byLength.map((row) => row.floor)).toEqual([0.1, 0.02]);
  expect(floor).toBe(0.02);
});

test("the worst twentieth of the texts may not lose much, however much all gain", () => {
  const gains = trialsOf("gains", says(1), says(4));
  const [worst] = trialsOf("gains", says(1), says(0.01));
  const all = [...gains.slice(1), worst];
  expect(chosen(gains).base).toBe(0.3);
  // It loses −log(w + .01 (1 − w)), which is .1 at w = .904.
  expect(chosen(all).base).toBe(0.95);
});

test("nor may those of one group, even where they are few among all", () => {
  const others = Array.from({ length: 3 }, (_, i) => trialsOf(`gains ${i}`, says(1), says(4)));
  const withWorst = (multiple: number) => {
    const [worst] = trialsOf("mixed", says(1), says(multiple));
    return chosen(...others, [...trialsOf("mixed", says(1), says(4)).slice(1), worst]).base;
  };
  // Of all texts the worst twentieth are four, of which three gain. Under a prior of .3 one that is half as likely loses .43.
  expect(withWorst(0.5)).toBe(0.7);
  expect(withWorst(0.9)).toBe(0.3);
});

test("the nearest adapter alone is the base where it is off", () => {
  const [trial] = trialsOf("known", says(1), says(2));
  expect(gainOf(trial, nearestAlone(trial))).toBeCloseTo(16 * Math.log(2), 9);
  expect(gainOf(trial, nearestAlone({ nearest: [{ similarity: 0.5, isOff: true }] }))).toBe(0);
});

test("of choices that gain about the same the one under which the worst text loses least is taken", () => {
  // A base prior of .3 gains some .007 nats more than one of .95, and costs the text that loses some .002.
  const gains = trialsOf("gains", says(1), says(1.025));
  const loses = trialsOf("loses", says(1), says(0.997));
  expect(chosen(gains, loses).base).toBe(0.95);
});

const served = (multiple: number) => trialsOf("known, served", says(1), says(multiple), { isServed: true });

test("known text may not fall behind the nearest adapter on the whole, nor far in one group after a long prompt", () => {
  const base = (promptTokens: number, multiples: readonly number[]) =>
    chosen(
      trialsOf("loses", says(1), says(0.99), { promptTokens }),
      // What the smaller bank gains on known text is so little that no mixture falls behind by more than .01.
      trialsOf("known", says(1), says(1.01)),
      ...multiples.map((multiple) => trialsOf(`${multiple}`, says(1), says(multiple), { isServed: true })),
    ).base;
  for (const promptTokens of [16, 64]) {
    expect(base(promptTokens, [])).toBe(0.95);
    expect(base(promptTokens, [1.05])).toBe(0.3);
  }
  // Where the nearest adapter harms a second group, the mixture is ahead there by more than it is behind in the first: by
  // log(1.05) − log(1 + .05 (1 − w)), which is at most .02 where w is at most .416.
  expect(base(16, [1.05, 0.9])).toBe(0.95);
  expect(base(64, [1.05, 0.9])).toBe(0.3);
});

test("text of the served bank says nothing else: neither its gain nor its loss counts", () => {
  const known = trialsOf("known", says(1), says(2));
  const loses = trialsOf("loses", says(1), says(0.92));
  expect(chosen(loses, known, served(0.01))).toEqual(chosen(loses, known));
});

test("a group of the served bank forbids a choice where its documents agree that it is behind", () => {
  // Under a base prior below .875 this text loses more than .01.
  const loses = trialsOf("loses", says(1), says(0.92));
  const known = trialsOf("known", says(1), says(1.01));
  const [behind, ahead] = [served(1.5), served(0.75)];
  expect(chosen(loses, known, behind).base).toBe(0.3);
  // Half of the documents are far behind and half are ahead: on the mean they are behind, by less than they vary.
  const mixed = behind.map((trial, i) => (i % 2 === 0 ? trial : ahead[i]));
  expect(chosen(loses, known, mixed).base).toBe(0.9);
  // One document says nothing of how they vary.
  const one = served(1.05).map((trial) => ({ ...trial, document: "one" }));
  expect(chosen(loses, known, one)).toEqual(chosen(loses, known));
});

test("of choices that gain about the same the one that is furthest from every limit is taken", () => {
  // Under a prior of .95 the first loses .0005 and the second is .019 behind; under .3 .0065 and .013.
  const loses = trialsOf("loses", says(1), says(0.9907), { promptTokens: 64 });
  const known = trialsOf("known", says(1), says(1.01), { promptTokens: 64 });
  const behind = trialsOf("behind, served", says(1), says(1.02), { promptTokens: 64, isServed: true });
  const ahead = trialsOf("ahead, served", says(1), says(0.5), { promptTokens: 64, isServed: true });
  expect(chosen(loses, known, ahead).base).toBe(0.95);
  const choice = chosen(loses, known, ahead, behind);
  expect(choice.base).toBeLessThan(0.9);
  // One document far behind says nothing of how they vary.
  const far = trialsOf("far, served", says(1), says(9), { promptTokens: 64, isServed: true });
  const alone = far.map((trial) => ({ ...trial, document: "one" }));
  expect(chosen(loses, known, ahead, behind, alone)).toEqual(choice);
});

test("a family that is left out of the choice has no say in it", () => {
  const measured = [measureGrid(16, [...trialsOf("a", says(1), says(0.96)), ...trialsOf("b", says(1), says(2))])];
  const without = calibrationOf(
    measured,
    choose(measured, (family) => family !== "a"),
  );
  expect(without.byLength[0].base).toBe(0.3);
});

test("random trials: what is chosen is a valid record, and gains what serving it gains", () => {
  const seed = 5;
  console.log(`seed ${seed}`);
  const random = seededRandom(seed);
  const oneToken = (i: number): TokenEvidence => ({
    experts: Array.from({ length: 4 - (i % 4) }, () => 0.001 + 0.2 * random()),
    pointer: { all: 0.3 + 0.7 * random(), found: random() < 0.5 ? 0 : 0.3 * random() },
  });
  for (let round = 0; round < 2; round++) {
    const byLength = [8, 32, 128].map((promptTokens) => ({
      promptTokens,
      trials: Array.from(
        { length: 12 },
        (_, i): GroupedTrial => ({
          ...{
            group: `g${i % 3}`,
            family: `f${i % 2}`,
            isServed: i % 3 === 0,
            document: `${i}`,
            corpus: 0,
            promptTokens,
          },
          nearest: [0.7, 0.4 + 0.3 * random(), 0.3 * random()].map((similarity, k) => ({
            similarity,
            isOff: k < i % 4,
          })),
          evidence: positionsOfEvidence(promptTokens).map(() => oneToken(i)),
          continuation: Array.from({ length: 40 }, () => oneToken(i)),
        }),
      ),
    }));
    const measured = byLength.map(({ promptTokens, trials }) => measureGrid(promptTokens, trials));
    const choices = choose(measured);
    const calibration = manifestSchema.shape.evidence.parse(calibrationOf(measured, choices))!;
    expect(calibration.byLength.map(({ promptTokens }) => promptTokens)).toEqual([8, 32, 128]);
    for (const [l, { trials }] of byLength.entries()) {
      const { floor } = calibration.byLength[l];
      expect(floor).toBeGreaterThanOrEqual(calibration.floor);
      for (const [t, trial] of trials.entries()) {
        const weights = weightsOf(trial, calibration);
        expect(weights.base).toBeGreaterThanOrEqual(floor! - 1e-12);
        const served = gainOf(trial, weights) / trial.continuation.length;
        expect(measured[l].gains[choices[l].floor][choices[l].candidate][t]).toBeCloseTo(served, 5);
        // The bound that is published.
        for (const one of trial.continuation) {
          expect(gainOf({ ...trial, continuation: [one] }, weights)).toBeGreaterThan(Math.log(floor!) - 1e-9);
        }
      }
    }
  }
});
