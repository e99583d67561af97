/** The threat model refers to code and tests: every file that it names must exist. */
import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

const root = `${import.meta.dirname}/../../..`;

test("every file that SECURITY.md names exists", () => {
  const text = readFileSync(`${root}/edge/SECURITY.md`, "utf8");
  const named = [...text.matchAll(/`((?:test|edge|shared|gpu-backend|infra)\/[\w./-]+\.\w+)`/g)].map(
    ([, file]) => file,
  );
  const linked = [...text.matchAll(/\]\(([\w./-]+)\)/g)].map(([, file]) => `edge/${file}`);
  expect(named.length).toBeGreaterThan(10);
  expect([...named, ...linked].filter((file) => !existsSync(`${root}/${file}`))).toEqual([]);
});
