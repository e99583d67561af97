import type { MetricsView } from "../../gpu-backend/http/metrics.ts";
import type { DiskState } from "../../gpu-backend/tenant-files/tenant-store.ts";

const parts = { processes: 1, sessions: 2, loading: 3, kv: 4, prefix_caches: 5, adapter_caches: 6, memories: 7 };
const noFiles = (): DiskState => ({ fault: null, failures: 0, unwrittenBytes: 0, files: 0, bytes: 0 });
export const noEngine: MetricsView = {
  stats: () => [],
  manifests: () => ({ all: [], first: null }),
  device: { name: "cpu", adapter: null, driver: null, selfTest: "none", found: "" },
  memory: { limitBytes: 100, parts },
  disk: { adapter: noFiles, memory: noFiles },
};
