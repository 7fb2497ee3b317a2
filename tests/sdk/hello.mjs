// Makes a sandbox and says what a command in it printed; for the part tls of tests/sdk/run.
import { Sandbox } from "@deno/sandbox";

const sandbox = await Sandbox.create();
console.log(await sandbox.sh`echo hello`.text());
await sandbox.kill();
