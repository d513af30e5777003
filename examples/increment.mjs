// A webhook processor for PipeProc: it answers each log {"myNumber": n} with {"myIncrementedNumber": n + 1}.
// node examples/increment.mjs [host:port]; also INCREMENT_LISTEN in the environment.
import {createServer} from "node:http";

const listen = process.argv[2] || process.env.INCREMENT_LISTEN || "127.0.0.1:9090";

// Answers an object (one log) or an array (one log for each element).
function increment({logs}) {
    const results = logs.map(({id, body}) => {
        if (typeof body.myNumber !== "number") throw new Error(`log ${id} has no myNumber`);
        return {myIncrementedNumber: body.myNumber + 1};
    });
    return results.length === 1 ? results[0] : results;
}

const server = createServer(async (request, response) => {
    const reply = (status, type, text) => response.writeHead(status, {"Content-Type": type}).end(text);
    if (request.url !== "/increment") return reply(404, "text/plain", "not found\n");
    if (request.method !== "POST") return reply(405, "text/plain", "method not allowed\n");
    try {
        const chunks = [];
        for await (const chunk of request) chunks.push(chunk);
        const answer = increment(JSON.parse(Buffer.concat(chunks).toString("utf8")));
        reply(200, "application/json", JSON.stringify(answer));
    } catch (err) {
        // Another attempt is useless: PipeProc disables the proc, and nothing is skipped unseen.
        reply(422, "text/plain", `${err.message}\n`);
    }
});
// Longer than PipeProc keeps idle connections, so that it is the one to close them.
server.keepAliveTimeout = 120_000;

const colon = listen.lastIndexOf(":");
server.listen({host: listen.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(listen.slice(colon + 1))}, () => {
    const {address, family, port} = server.address();
    console.log(`listening on http://${family === "IPv6" ? `[${address}]` : address}:${port}/increment`);
});
server.on("error", (err) => {
    console.error(`increment: ${err.message}`);
    process.exitCode = 1;
});

// Calls in flight are answered.
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => {
    server.close();
    server.closeIdleConnections();
});
