import { expect, test } from "vitest";
import { familiesOf, parseFamily } from "../../../../gpu-backend/training/calibration/families.ts";

test("corpora whose names are the same before their last dash are one family", () => {
  expect(familiesOf(["manual-french", "sea", "manual-spanish", "war-and-peace"], [])).toEqual([
    { name: "manual", corpora: ["manual-french", "manual-spanish"] },
    { name: "sea", corpora: ["sea"] },
    { name: "war-and-peace", corpora: ["war-and-peace"] },
  ]);
});

test("a family that is named takes its corpora out of that rule", () => {
  const given = [parseFamily("old=sea,manual-french")];
  expect(familiesOf(["manual-french", "sea", "manual-spanish"], given)).toEqual([
    { name: "old", corpora: ["sea", "manual-french"] },
    { name: "manual-spanish", corpora: ["manual-spanish"] },
  ]);
});

test("a family of no corpus, of an unknown one and of another's is refused by name", () => {
  expect(() => parseFamily("old")).toThrow("family old");
  expect(() => parseFamily("old=,")).toThrow("family old=,");
  expect(() => familiesOf(["sea"], [parseFamily("old=sky")])).toThrow("no corpus is called sky");
  expect(() => familiesOf(["sea"], [parseFamily("old=sea"), parseFamily("new=sea")])).toThrow("family new: sea");
});

test("every corpus is in exactly one family", () => {
  const corpora = ["a-b", "a-c", "a", "b-", "-", "-x"];
  const families = familiesOf(corpora, []);
  expect(families.flatMap((family) => family.corpora).sort()).toEqual([...corpora].sort());
  expect(new Set(families.map(({ name }) => name)).size).toBe(families.length);
});
