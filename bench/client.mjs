// Measures commands and files through the npm client, for `hutch bench exec`.
//
// node client.mjs FOLDER-OF-THE-PACKAGE: makes a sandbox, prints "ready", then answers each line of
// standard input (echo, write BYTES, read BYTES) with nanoseconds, or with what went wrong.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const require = createRequire(process.argv[2] + "/");
const { Sandbox } = await import(pathToFileURL(require.resolve("@deno/sandbox")));
const FILE = "hutch-bench";

// As bench/exec.cc makes it.
function content(size) {
  const numbers = new BigUint64Array(size / 8);
  for (let i = 0; i < numbers.length; i++) numbers[i] = BigInt(i) * 0x9e3779b97f4a7c15n;
  return new Uint8Array(numbers.buffer);
}

async function timed(action) {
  const start = process.hrtime.bigint();
  const result = await action();
  return [process.hrtime.bigint() - start, result];
}

const sandbox = await Sandbox.create();
const orders = {
  async echo() {
    const [time, output] = await timed(async () => {
      const child = await sandbox.spawn("/bin/echo", { args: ["hello"], stdout: "piped", stderr: "null" });
      return await child.output();
    });
    if (!output.status.success || Buffer.from(output.stdout).toString() !== "hello\n") throw new Error("echo failed");
    return time;
  },
  async write(size) {
    const bytes = content(size);
    const [time] = await timed(() => sandbox.fs.writeFile(FILE, bytes));
    return time;
  },
  async read(size) {
    const [time, bytes] = await timed(() => sandbox.fs.readFile(FILE));
    if (Buffer.compare(bytes, content(size)) !== 0) throw new Error("the file was read otherwise");
    return time;
  },
};

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const [name, size] = line.split(" ");
  try {
    console.log(String(await orders[name](Number(size))));
  } catch (error) {
    console.log(String(error).replaceAll("\n", " "));
  }
}
await sandbox.kill();
