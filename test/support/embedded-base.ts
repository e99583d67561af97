/** The base that users get, for the few tests that need it: SmolLM2-135M, which opens in seconds. */
import path from "node:path";

export const embeddedBase = path.join(import.meta.dirname, "../../gpu-backend/models/smollm2-135m");
