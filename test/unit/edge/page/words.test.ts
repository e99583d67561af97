/** Numbers in words: a lower number is called lower, and a worse one worse. */
import { expect, test } from "vitest";
import { surpriseBeside, surpriseChange } from "../../../../edge/page/words.ts";

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
