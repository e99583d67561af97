/** Makes ONNX Runtime log on stderr where each node runs. Usage: node placement-process.ts GRAPH */
import { openSession } from "./session.ts";

const session = await openSession(process.argv[2], { threads: 1, device: "webgpu", isVerbose: true });
await session.release();
