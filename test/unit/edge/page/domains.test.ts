/** The page's names for kinds of text. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import domains from "../../../../edge/page/domains.json" with { type: "json" };
import { domainOf, examplesOf } from "../../../../edge/page/domains.ts";
import { parseManifest } from "../../../../shared/artifacts/manifest.ts";
import { embeddedBase } from "../../../support/embedded-base.ts";

const { centroids } = parseManifest(readFileSync(`${embeddedBase}/artifacts/manifest.json`, "utf8"));
const served = centroids as unknown as Parameters<typeof examplesOf>[0];

test("the page knows the kinds of the embedded model, each by a name of its own, and no others", () => {
  const labels = centroids.map(({ label }) => label.map((piece) => piece.trim()).join(" "));
  expect(Object.keys(domains).sort()).toEqual(labels.sort());
  const known = centroids.map(domainOf);
  expect(new Set(known.map(({ name }) => name)).size).toBe(centroids.length);
  const withExample = known.filter(({ example }) => example !== null);
  expect(withExample.length).toBeGreaterThan(0);
  expect(examplesOf(served)).toHaveLength(withExample.length);
});
