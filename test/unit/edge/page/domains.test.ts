/** Domains by names that people use. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { domainOf, examplesOf } from "../../../../edge/page/domains.ts";
import { parseManifest } from "../../../../shared/artifacts/manifest.ts";
import { smallArtifacts } from "../../../support/small-base.ts";

const { centroids } = parseManifest(readFileSync(`${smallArtifacts}/manifest.json`, "utf8"));
const served = centroids as unknown as Parameters<typeof examplesOf>[0];

test("each domain of the embedded model has a name of its own and an example", () => {
  const domains = centroids.map(domainOf);
  expect(new Set(domains.map(({ name }) => name)).size).toBe(centroids.length);
  expect(domains.filter(({ example }) => example === null)).toEqual([]);
  expect(examplesOf(served)).toHaveLength(centroids.length);
});

test("those of other artifacts are named by their typical tokens, and an example is there all the same", () => {
  const other = { ...served[0], label: [" reef", "", " coral", " tide", " kelp"] };
  expect(domainOf(other)).toEqual({ name: "reef, coral, tide", example: null });
  expect(examplesOf([other])).toHaveLength(1);
  expect(domainOf({ label: ["constructor"] })).toEqual({ name: "constructor", example: null });
});
