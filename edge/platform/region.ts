/**
 * A region is a location hint of the platform: where a Durable Object is created, and near which backends run.
 * https://developers.cloudflare.com/durable-objects/reference/data-location/#provide-a-location-hint
 */
import type { Jurisdiction } from "../../shared/contracts/tenant-name.ts";

export const regions = ["wnam", "enam", "sam", "weur", "eeur", "apac", "oc", "afr", "me"] as const;

export type Region = (typeof regions)[number];

/** Regions of each jurisdiction. The first one serves callers from outside the jurisdiction. */
export const regionsOf: Record<Jurisdiction, readonly Region[]> = { eu: ["weur", "eeur"] };

/** The region that answers a caller from `region`. For a tenant with a jurisdiction, a region of that jurisdiction. */
export function regionWithin(jurisdiction: Jurisdiction | null, region: Region): Region {
  if (jurisdiction === null || regionsOf[jurisdiction].includes(region)) return region;
  return regionsOf[jurisdiction][0];
}

/** The region of a request whose origin is unknown, as in local runs. */
export const defaultRegion: Region = "enam";

/** Longitude that divides western from eastern North America: between Denver and Dallas. */
const americaSplit = -100;
/** Longitude that divides western from eastern Europe: between Prague and Vienna. */
const europeSplit = 15.5;
/** The part of Asia west of this longitude and south of this latitude is the Middle East, with Iran and Oman. */
const middleEast = { longitude: 62, latitude: 42 };

/** The region of a request. `cf` has coordinates in decimal degrees as text; without them, the continent's larger region is returned. */
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

/** A coordinate in degrees; NaN if it is missing, because any comparison with NaN is false. */
function degrees(text: unknown): number {
  return typeof text === "string" && text !== "" ? Number(text) : Number.NaN;
}
