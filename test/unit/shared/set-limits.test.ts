import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { setLimits } from "../../../shared/artifacts/limits.ts";

test("FORMAT.md has every limit with its value, unit and reason, and no other", () => {
  const text = readFileSync(new URL("../../../shared/artifacts/FORMAT.md", import.meta.url), "utf8");
  const [, section] = text.split(/^## Limits$/m);
  const rows = [...section.split(/^## /m)[0].matchAll(/^\| `(\w+)` \|(.*)\|$/gm)].map(([, name, rest]) => ({
    name,
    cells: rest.split("|").map((cell) => cell.trim()),
  }));
  const shown = Object.fromEntries(rows.map(({ name, cells: [value] }) => [name, Number(value.replaceAll(",", ""))]));
  expect(shown).toEqual(setLimits);
  for (const { name, cells } of rows) expect(cells, name).toEqual(Array(3).fill(expect.stringMatching(/\w/)));
});
