/** The threat model refers to code and tests: every file that it names must exist. */
import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { read, root } from "../../support/project.ts";

test("every file that SECURITY.md names exists", () => {
  const text = read("edge/SECURITY.md");
  const named = [...text.matchAll(/`((?:test|edge|shared|gpu-backend|infra)\/[\w./-]+\.\w+)`/g)].map(
    ([, file]) => file,
  );
  const linked = [...text.matchAll(/\]\(([\w./-]+)\)/g)].map(([, file]) => `edge/${file}`);
  expect(named.length).toBeGreaterThan(10);
  expect([...named, ...linked].filter((file) => !existsSync(`${root}/${file}`))).toEqual([]);
});
