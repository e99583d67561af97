import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { setLimits } from "../../../shared/artifacts/limits.ts";

test("FORMAT.md has every limit with its value, unit and reason, and no other", () => {
  const text = readFileSync(new URL("../../../shared/artifacts/FORMAT.md", import.meta.url), "utf8");
  const rows = [...text.matchAll(/^\| `(\w+)` \| ([\d,]+) \| [^|]+ \| [^|]+ \|$/gm)];
  const shown = Object.fromEntries(rows.map(([, name, value]) => [name, Number(value.replaceAll(",", ""))]));
  expect(shown).toEqual(setLimits);
});
