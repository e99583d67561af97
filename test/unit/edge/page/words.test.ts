/** Numbers in words: a lower number is called lower, and a worse one worse. */
import { expect, test } from "vitest";
import {
  likelier,
  percent,
  probabilityText,
  readableToken,
  shareStepOf,
  sizeText,
  stepOf,
  surpriseBeside,
  surpriseChange,
} from "../../../../edge/page/words.ts";

test.each([
  [0.248, "22% less surprised"],
  [-0.03, "3% more surprised"],
  [-0.7, "101% more surprised"],
  [0.001, "as surprised"],
  [4.9, "99% less surprised"],
  [9, "99% less surprised"],
])("a gain of %f nats a token is %s", (nats, words) => {
  expect(surpriseChange(nats)).toBe(words);
  const beside = words === "as surprised" ? "as" : "than";
  expect(surpriseBeside(nats)).toBe(`${words} ${beside} the base`);
  expect(surpriseBeside(nats, "without it")).toBe(`${words} ${beside} without it`);
});

test.each([
  [0, "0%"],
  [0.0004, "below 0.1%"],
  [0.0213, "2.1%"],
  [0.2249, "22%"],
  [1, "100%"],
])("a share of %f is %s", (share, words) => {
  expect(percent(share)).toBe(words);
});

test.each([
  [Math.log(3.2), "3.2 times likelier with the adapters"],
  [-Math.log(40), "40 times likelier with the base"],
  [Math.log(22610), "22,610 times likelier with the adapters"],
  [0.01, "as likely as with the base"],
])("a difference of %f is %s", (difference, words) => {
  expect(likelier(difference, "the adapters", "the base")).toBe(words);
});

test("colours follow the legend's numbers, for likelier and less likely tokens alike", () => {
  const steps = [6, 2, 1.2, 1 / 1.2, 1 / 2, 1 / 6].map((times) => stepOf(Math.log(times)));
  expect(steps).toEqual(["much-more", "more", "alike", "alike", "less", "much-less"]);
});

test("tokens that cannot be seen are named", () => {
  expect(["\n", "  ", "bytes:\\xc3", " a\n"].map(readableToken)).toEqual([
    "line break",
    "2 spaces",
    "part of a character (\\xc3)",
    " a⏎",
  ]);
});

test("a share has its step of the scale, and an unknown probability has none", () => {
  expect([null, Math.log(0.25)].map(probabilityText)).toEqual(["–", "25%"]);
  expect([0, 0.1, 0.3, 0.6, 1].map(shareStepOf)).toEqual(["none", "some", "much", "most", "most"]);
});

test("sizes are told in the unit that fits", () => {
  expect([1, 999, 12_345, 33_554_432].map(sizeText)).toEqual(["1 byte", "999 bytes", "12 kB", "33.6 MB"]);
});
