/** Tells a cell to load its artifacts before it has a request to answer. */
import type { Region } from "../platform/region.ts";
import { type CellNamespace, cellsOf, cellUrl } from "./cell-names.ts";

/**
 * Makes a tenant's cell load its artifacts while the Worker loads its own, so that a request that finds neither loaded waits
 * for both at once. Each cell is told once.
 */
export function createWaker(
  { namespace, cellsPerRegion }: { namespace: CellNamespace; cellsPerRegion: number },
  background: (work: Promise<void>) => void,
): (tenant: string, region: Region) => void {
  const told = new Set<string>();
  return (tenant, region) => {
    const [name] = cellsOf(tenant, region, cellsPerRegion);
    if (told.has(name)) return;
    told.add(name);
    const wake = async () => {
      const response = await namespace(name, region).fetch(cellUrl, { method: "GET" });
      await response.body?.cancel();
    };
    background(wake().catch(() => undefined));
  };
}
