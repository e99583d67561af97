import { expect, test } from "vitest";
import {
  emptyProfile,
  promptClasses,
  promptClassOf,
  similarityBinOf,
  similarityBins,
} from "../../../shared/math/assignment-profile.ts";

test("a prompt is of the class that it is long enough for", () => {
  expect([1, 7, 8, 31, 32, 63, 64, 5000].map(promptClassOf)).toEqual([0, 0, 1, 2, 3, 3, 4, 4]);
  for (const [c, { typical }] of promptClasses.entries()) expect(promptClassOf(typical)).toBe(c);
});

test("every cosine has a bin", () => {
  expect([-1, 0, 0.09, 0.1, 0.55, 0.99, 1].map(similarityBinOf)).toEqual([0, 0, 0, 1, 5, 9, 9]);
});

test("counts of different classes are different lists", () => {
  const profile = emptyProfile(3);
  profile[0].centroids[1]++;
  expect(profile[1].centroids).toEqual([0, 0, 0]);
  expect(profile[0].similarities).toHaveLength(similarityBins);
});
