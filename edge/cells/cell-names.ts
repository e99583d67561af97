/** Names of cells: which ones a tenant prefers, and where one is. Pure. */
import { rendezvousOrder } from "../backend/rendezvous.ts";
import { type Region, regions } from "../platform/region.ts";

/** Names of a region's cells, in the order in which the tenant prefers them. */
export function cellsOf(tenant: string, region: Region, cellsPerRegion: number): string[] {
  const names = Array.from({ length: cellsPerRegion }, (_, i) => `cell-${region}-${i}`);
  return rendezvousOrder(tenant, names);
}

/** The region of a cell by its name; null for any other name. */
export function regionOfCell(name: string | undefined): Region | null {
  const [, region] = /^cell-([a-z]+)-\d+$/.exec(name ?? "") ?? [];
  return regions.find((one) => one === region) ?? null;
}
