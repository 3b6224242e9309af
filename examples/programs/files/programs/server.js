// Counts what it is asked, for each name by itself, and returns a digest of what it was sent.
const crypto = require("crypto");
const counts = {};
const server = require("http").createServer((request, response) => {
    const hash = crypto.createHash("sha256");
    request.on("data", (piece) => hash.update(piece));
    request.on("end", () => {
        counts[request.url] = (counts[request.url] || 0) + 1;
        response.end(`${counts[request.url]} ${hash.digest("hex")} ${process.pid}\n`);
    });
});
server.keepAliveTimeout = 3600e3;
server.requestTimeout = 0;
server.listen(8080);
