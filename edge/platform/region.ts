/**
 * Regions are the platform's location hints: a Durable Object is created in one, and backends run near one.
 * https://developers.cloudflare.com/durable-objects/reference/data-location/#provide-a-location-hint
 */
import type { Jurisdiction } from "../../shared/contracts/tenant-name.ts";

export const regions = ["wnam", "enam", "sam", "weur", "eeur", "apac", "oc", "afr", "me"] as const;

export type Region = (typeof regions)[number];

/** The first region of a jurisdiction serves callers from outside the jurisdiction. */
export const regionsOf: Record<Jurisdiction, readonly Region[]> = { eu: ["weur", "eeur"] };

/** The region that answers a caller from `region`. A tenant with a jurisdiction is answered within the jurisdiction. */
export function regionWithin(jurisdiction: Jurisdiction | null, region: Region): Region {
  if (jurisdiction === null || regionsOf[jurisdiction].includes(region)) return region;
  return regionsOf[jurisdiction][0];
}

/** For requests of unknown origin, as in local runs. */
export const defaultRegion: Region = "enam";

/** Divides western from eastern North America, between Denver and Dallas. */
const americaSplit = -100;
/** Divides western from eastern Europe, between Prague and Vienna. */
const europeSplit = 15.5;
/** Asia west of this longitude and south of this latitude is the Middle East, with Iran and Oman. */
const middleEast = { longitude: 62, latitude: 42 };

/** `cf` has coordinates in decimal degrees, as text. Without coordinates, returns the continent's larger region. */
export function regionOf(cf: object | undefined): Region {
  const origin = (cf ?? {}) as { continent?: unknown; longitude?: unknown; latitude?: unknown };
  const longitude = degrees(origin.longitude);
  const latitude = degrees(origin.latitude);
  switch (origin.continent) {
    case "NA":
      return longitude < americaSplit ? "wnam" : "enam";
    case "SA":
      return "sam";
    case "EU":
      return longitude > europeSplit ? "eeur" : "weur";
    case "AS":
      return longitude < middleEast.longitude && latitude < middleEast.latitude ? "me" : "apac";
    case "OC":
    case "AN":
      return "oc";
    case "AF":
      return "afr";
    default:
      return defaultRegion;
  }
}

/** NaN if missing, because any comparison with NaN is false. */
function degrees(text: unknown): number {
  return typeof text === "string" && text !== "" ? Number(text) : Number.NaN;
}
