import { expect, test } from "vitest";
import { chooseScale, documentGain, hasProvenGain } from "../../../gpu-backend/training/bank/gain.ts";
import { Random } from "../../../gpu-backend/training/random.ts";

const loss = (document: string, tokens: number, base: number, adapted: number) => ({ document, tokens, base, adapted });

test("gain is the difference of mean losses, weighed by tokens", () => {
  const gain = documentGain([loss("a", 10, 40, 30), loss("b", 30, 90, 96)], new Random(1, 0))!;
  expect(gain.nats).toBeCloseTo((10 - 6) / 40);
  expect(gain.tokens).toBe(40);
  expect(gain.ci95[0]).toBeCloseTo(-0.2); // resamples of document b alone
  expect(gain.ci95[1]).toBeCloseTo(1); // resamples of document a alone
});

test("windows of one document move together: more windows do not narrow the interval", () => {
  const few = ["a", "b", "c", "d"].map((name, i) => loss(name, 10, 10 + i, 10));
  const many = few.flatMap((window) => Array.from({ length: 50 }, () => window));
  const width = (losses: typeof few) => {
    const [low, high] = documentGain(losses, new Random(1, 0))!.ci95;
    return high - low;
  };
  expect(width(many)).toBeCloseTo(width(few), 6);
});

test("without documents, or with one, whose interval would have no width, the gain is unknown and not 0", () => {
  expect(documentGain([], new Random(1, 0))).toBeNull();
  expect(documentGain([loss("a", 10, 40, 30), loss("a", 10, 40, 35)], new Random(1, 0))).toBeNull();
});

const trial = (tokens: number, ...losses: number[]) => ({ tokens, losses });

test("the scale is the best on validation, and 0 where the gain is within noise or absent", () => {
  expect(chooseScale([trial(10, 100, 98, 96, 97, 99)])).toBe(0.5);
  expect(chooseScale([trial(10, 100, 101, 102, 103, 104)])).toBe(0);
  expect(chooseScale([trial(10, 100, 99.99, 99.98, 99.99, 100)])).toBe(0); // 0.002 nats a token
  expect(chooseScale([])).toBe(0);
});

test("no corpus of a centroid pays for another, unless it is too small to judge by", () => {
  const gaining = trial(50, 100, 90, 80, 70, 60);
  expect(chooseScale([gaining, trial(50, 100, 99, 100, 102, 104)])).toBe(0.5);
  expect(chooseScale([gaining, trial(50, 100, 101, 102, 103, 104)])).toBe(0);
  expect(chooseScale([gaining, trial(5, 10, 11, 12, 13, 14)])).toBe(1);
});

test("a gain is proven by documents that agree, not by one copy of a known text", () => {
  const isProven = (...gains: number[]) =>
    hasProvenGain(
      documentGain(
        gains.map((gain, i) => loss(`${i}`, 10, 30, 30 - 10 * gain)),
        new Random(1, 0),
      ),
    );
  expect(isProven(0.02, 0.03, 0.02, 0.01, 0.02, 0.03)).toBe(true);
  expect(isProven(5, 0, 0, 0, 0, 0)).toBe(false);
  expect(isProven(5)).toBe(false);
});
