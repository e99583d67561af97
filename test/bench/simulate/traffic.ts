/**
 * Who asks, from where, and how much: 300 cities, tenants and centroids by Zipf's law, lengths of a published trace. Seeded.
 *
 * Cities, coordinates and populations are GeoNames' (geonames.org, CC BY 4.0). A city's share of the traffic is its population
 * times `useByContinent`, an assumption.
 */
import { readFileSync } from "node:fs";
import { type Region, regionOf } from "../../../edge/platform/region.ts";
import { tracedLengths } from "../load/trace.ts";

export interface City {
  name: string;
  region: Region;
  /** Degrees. */
  latitude: number;
  longitude: number;
  /** Share of all requests. */
  share: number;
}

export interface Arrival {
  city: City;
  tenant: string;
  centroidId: string;
  promptTokens: number;
  outputTokens: number;
}

export interface TrafficSize {
  tenants: number;
  centroids: number;
  contextTokens: number;
}

/** Requests for each inhabitant, relative to Asia. */
const useByContinent: Record<string, number> = { AS: 1, EU: 4, NA: 6, SA: 2, AF: 0.5, OC: 5 };
/** Exponent of Zipf's law, for tenants and centroids alike: the largest of 10⁵ tenants has about 1.4% of the requests. */
const zipfExponent = 0.8;

export function readCities(): City[] {
  const file = new URL("cities.json", import.meta.url);
  const rows = JSON.parse(readFileSync(file, "utf8")) as [string, string, string, number, number, number][];
  const weights = rows.map(([, , continent, , , thousands]) => thousands * useByContinent[continent]);
  const total = weights.reduce((a, b) => a + b, 0);
  return rows.map(([name, , continent, latitude, longitude], i) => ({
    name,
    region: regionOf({ continent, latitude: String(latitude), longitude: String(longitude) }),
    latitude,
    longitude,
    share: weights[i] / total,
  }));
}

/** Draws arrivals one after the other. */
export function createTraffic(cities: readonly City[], size: TrafficSize, random: () => number): () => Arrival {
  const city = drawer(cities.map(({ share }) => share));
  const tenant = drawer(zipf(size.tenants));
  const centroid = drawer(zipf(size.centroids));
  return () => {
    const { prompt: promptTokens, maxTokens: outputTokens } = tracedLengths(size.contextTokens, random);
    return {
      city: cities[city(random())],
      tenant: `tenant-${tenant(random())}`,
      centroidId: `c${centroid(random())}`,
      promptTokens,
      outputTokens,
    };
  };
}

function zipf(count: number): number[] {
  return Array.from({ length: count }, (_, i) => (i + 1) ** -zipfExponent);
}

/** Index by a number from 0 to 1, as likely as its weight. */
function drawer(weights: readonly number[]): (at: number) => number {
  const sums: number[] = [];
  let total = 0;
  for (const weight of weights) {
    total += weight;
    sums.push(total);
  }
  return (at) => {
    let [low, high] = [0, sums.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sums[middle] <= at * total) low = middle + 1;
      else high = middle;
    }
    return low;
  };
}
