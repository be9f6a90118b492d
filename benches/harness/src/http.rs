//! The server's side of HTTP/1.1 that the Runtime API and the AWS stub need: kept-alive connections and bodies of
//! a known length, over blocking streams.

use std::io::{self, BufRead, BufReader, Read, Write};

/// Larger requests are not our webhooks. SQS takes 1 MiB, and JSON escapes some of it.
const LARGEST_BODY_BYTES: usize = 16 * 1024 * 1024;

/// One connection, from the server's side.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: BufReader<S>,
}

/// One request. Header names are in lower case.
#[derive(Debug)]
pub(crate) struct Request {
    /// Such as `POST`.
    pub(crate) method: String,
    /// Such as `/2018-06-01/runtime/invocation/next`.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    /// Empty if the request has none.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl<S: Read + Write> Connection<S> {
    /// A connection that was just accepted.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: BufReader::with_capacity(64 * 1024, stream) }
    }

    /// Waits for the next request; `None` when the client has closed the connection.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the connection breaks, or the request is not HTTP that is supported here.
    pub(crate) fn read_request(&mut self) -> io::Result<Option<Request>> {
        let Some(first) = self.read_line()? else { return Ok(None) };
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Err(invalid("the request line has no path"));
        };
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?.ok_or_else(|| invalid("the headers do not end"))?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header has no value"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Request { method, path, headers, body: Vec::new() };
        if request.header("transfer-encoding").is_some() {
            return Err(invalid("the body has no known length"));
        }
        if let Some(length) = request.header("content-length") {
            let length = length.parse().ok().filter(|length| *length <= LARGEST_BODY_BYTES);
            request.body.resize(length.ok_or_else(|| invalid("the body is too long"))?, 0);
            self.stream.read_exact(&mut request.body)?;
        }
        Ok(Some(request))
    }

    /// Answers the request that was read last. One write, so that it is one TLS record if possible.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the connection breaks.
    pub(crate) fn respond(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut answer = Vec::with_capacity(512 + body.len());
        // HTTP requires the space, but the reason after it may be empty.
        write!(answer, "HTTP/1.1 {status} \r\ncontent-length: {}\r\n", body.len())?;
        for (name, value) in headers {
            write!(answer, "{name}: {value}\r\n")?;
        }
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(body);
        let stream = self.stream.get_mut();
        stream.write_all(&answer)?;
        stream.flush()
    }

    fn read_line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let end = line.trim_end_matches(['\r', '\n']).len();
        line.truncate(end);
        Ok(Some(line))
    }
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that has sent everything and keeps the answers.
    struct Client {
        sends: &'static [u8],
        receives: Vec<u8>,
    }

    impl Read for Client {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.sends.read(buffer)
        }
    }

    impl Write for Client {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.receives.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn connection(sends: &'static str) -> Connection<Client> {
        Connection::new(Client { sends: sends.as_bytes(), receives: Vec::new() })
    }

    #[test]
    fn requests_follow_each_other_on_one_connection() {
        let mut connection = connection(
            "POST /a HTTP/1.1\r\nContent-Length: 2\r\nX-Amz-Target: T\r\n\r\n{}GET /b HTTP/1.1\r\n\r\n",
        );
        let first = connection.read_request().unwrap().unwrap();
        assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/a"));
        assert_eq!(first.header("x-amz-target"), Some("T"));
        assert_eq!(first.body, b"{}");
        let second = connection.read_request().unwrap().unwrap();
        assert_eq!((second.method.as_str(), second.path.as_str()), ("GET", "/b"));
        assert!(connection.read_request().unwrap().is_none());
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        let mut connection = connection("");
        connection.respond(202, &[("a", "b")], b"{}").unwrap();
        let received = &connection.stream.get_ref().receives;
        assert_eq!(str::from_utf8(received).unwrap(), "HTTP/1.1 202 \r\ncontent-length: 2\r\na: b\r\n\r\n{}");
    }

    #[test]
    fn a_body_of_unknown_length_is_an_error() {
        let mut connection = connection("POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
        assert!(connection.read_request().is_err());
    }
}
