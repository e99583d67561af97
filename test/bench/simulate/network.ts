/** Times on the way, in milliseconds: between a city and the large site of a region. Between regions: edge/backend/round-trips.ts. */
import type { Region } from "../../../edge/platform/region.ts";
import type { City } from "./traffic.ts";

/** Where a region's objects run. Degrees. */
const sites: Record<Region, [latitude: number, longitude: number]> = {
  wnam: [37.3, -121.9],
  enam: [39.0, -77.5],
  sam: [-23.5, -46.6],
  weur: [50.1, 8.7],
  eeur: [52.2, 21.0],
  apac: [1.35, 103.8],
  oc: [-33.9, 151.2],
  afr: [-26.2, 28.0],
  me: [25.2, 55.3],
};
const earthKm = 6371;
/** Light in glass covers 200 km a millisecond; cables are half as long again as the great circle. */
const kmPerMs = 200 / 1.5;
/** Both ways inside a region: routers, TLS records, the platform's own hops. */
const insideMs = 5;

/** Round trip between the platform's site in a city and a region's objects. */
export function cityRoundTripMs(city: City, region: Region): number {
  const [latitude, longitude] = sites[region];
  return (2 * kmBetween(city.latitude, city.longitude, latitude, longitude)) / kmPerMs + insideMs;
}

/** Haversine. */
function kmBetween(latitudeA: number, longitudeA: number, latitudeB: number, longitudeB: number): number {
  const radians = (degrees: number) => (degrees * Math.PI) / 180;
  const half = (a: number, b: number) => Math.sin(radians(b - a) / 2) ** 2;
  const h =
    half(latitudeA, latitudeB) +
    Math.cos(radians(latitudeA)) * Math.cos(radians(latitudeB)) * half(longitudeA, longitudeB);
  return 2 * earthKm * Math.asin(Math.sqrt(h));
}
