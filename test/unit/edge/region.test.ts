import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { roundTripMs } from "../../../edge/dispatch/router.ts";
import { type ObjectNamespace, objectNamed } from "../../../edge/platform/objects.ts";
import { defaultRegion, regionOf, regions, regionsOf, regionWithin } from "../../../edge/platform/region.ts";
import { jurisdictionOf, tenantSchema } from "../../../shared/contracts/tenant-name.ts";
import { read, root } from "../../support/project.ts";

test.each([
  ["Seattle", "NA", "47.6", "-122.3", "wnam"],
  ["Denver", "NA", "39.7", "-105.0", "wnam"],
  ["Dallas", "NA", "32.8", "-96.8", "enam"],
  ["Mexico City", "NA", "19.4", "-99.1", "enam"],
  ["New York", "NA", "40.7", "-74.0", "enam"],
  ["São Paulo", "SA", "-23.5", "-46.6", "sam"],
  ["Lisbon", "EU", "38.7", "-9.1", "weur"],
  ["Berlin", "EU", "52.5", "13.4", "weur"],
  ["Vienna", "EU", "48.2", "16.4", "eeur"],
  ["Warsaw", "EU", "52.2", "21.0", "eeur"],
  ["Istanbul", "AS", "41.0", "29.0", "me"],
  ["Dubai", "AS", "25.2", "55.3", "me"],
  ["Tehran", "AS", "35.7", "51.4", "me"],
  ["Aktau", "AS", "43.6", "51.2", "apac"],
  ["Karachi", "AS", "24.9", "67.0", "apac"],
  ["Tokyo", "AS", "35.7", "139.7", "apac"],
  ["Sydney", "OC", "-33.9", "151.2", "oc"],
  ["McMurdo", "AN", "-77.8", "166.7", "oc"],
  ["Lagos", "AF", "6.5", "3.4", "afr"],
  ["a continent without coordinates", "EU", undefined, undefined, "weur"],
  ["another", "NA", "", "", "enam"],
  ["a third", "AS", undefined, "29.0", "apac"],
  ["Tor", "T1", undefined, undefined, defaultRegion],
  ["a place without a continent", undefined, undefined, undefined, defaultRegion],
])("%s (%s, %s, %s) is in %s", (_, continent, latitude, longitude, region) => {
  expect(regionOf({ continent, latitude, longitude })).toBe(region);
});

test("a request without a location is in the default region", () => {
  expect(regionOf(undefined)).toBe(defaultRegion);
});

test("a jurisdiction answers a caller in the nearest of its regions, wherever the caller is", () => {
  for (const from of regions) {
    expect(regionWithin(null, from)).toBe(from);
    const nearest = regionsOf.eu.toSorted((a, b) => roundTripMs(from, a) - roundTripMs(from, b))[0];
    expect([from, regionWithin("eu", from)]).toEqual([from, nearest]);
  }
});

test("a jurisdiction is the prefix of a tenant's name; any other colon is refused, and the error names the prefixes", () => {
  const long = "a".repeat(64);
  for (const name of ["acme", "eu", "euro", long]) {
    expect([tenantSchema.parse(name), jurisdictionOf(name)]).toEqual([name, null]);
    expect([tenantSchema.parse(`eu:${name}`), jurisdictionOf(`eu:${name}`)]).toEqual([`eu:${name}`, "eu"]);
  }
  for (const name of ["acme:eu", ..."xx:acme EU:acme eu: :acme eu:eu:acme eu:a@weur eu:../a".split(" "), `${long}a`]) {
    expect(() => tenantSchema.parse(name), name).toThrow(/one of the prefixes eu: or none/);
  }
});

test("a jurisdiction has objects of its own; a runtime without jurisdictions makes none outside", () => {
  const made: unknown[] = [];
  const within = (jurisdiction: string | null): ObjectNamespace<string> => ({
    jurisdiction: (name) => within(name),
    getByName: (name, options) => {
      made.push([jurisdiction, name, options]);
      return name;
    },
  });
  const own = "eu:eu";
  objectNamed(within(null), own, "weur");
  objectNamed(within(null), "acme");
  expect(made.splice(0)).toEqual([
    ["eu", "eu:eu", { locationHint: "weur" }],
    [null, "acme", {}],
  ]);
  const jurisdiction = () => {
    throw new Error("not implemented");
  };
  const bare = { ...within(null), jurisdiction };
  expect(() => objectNamed(bare, own)).toThrow(/jurisdiction eu, and this runtime has no jurisdictions/);
  expect(made).toEqual([]);
});

test("no code of the edge but objects.ts gets an object by its name", () => {
  const files = readdirSync(`${root}/edge`, { recursive: true, encoding: "utf8" });
  const sources = files.filter((file) => /^(?!worker-conf|client|page).*\.ts$/.test(file));
  const naming = sources.filter((file) => /\.(getByName|idFromName)\(/.test(read(`edge/${file}`)));
  // config.ts may get objects by name, too: they are containers, which are backends and no objects of the edge.
  expect(naming.sort()).toEqual(["config.ts", "platform/objects.ts"]);
});
