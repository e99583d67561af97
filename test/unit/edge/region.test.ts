import { describe, expect, test } from "vitest";
import { defaultRegion, regionOf } from "../../../edge/platform/region.ts";

describe("regionOf", () => {
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
  ])("%s (%s, %s, %s) is in %s", (_, continent, latitude, longitude, region) => {
    expect(regionOf({ continent, latitude, longitude })).toBe(region);
  });

  test("what comes from nowhere is in the default region", () => {
    expect(regionOf(undefined)).toBe(defaultRegion);
    expect(regionOf({})).toBe(defaultRegion);
  });
});
