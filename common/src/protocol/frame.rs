//! Length-delimited JSON frames over any byte stream.

use std::io;
use std::pin::Pin;

use futures::{SinkExt, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_serde::formats::Json;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Largest frame accepted from a paired peer, in bytes.
///
/// Long lists (flows) are sent in batches; no legitimate frame comes close to this.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Largest frame accepted from a peer that has not paired yet, in bytes.
pub const MAX_UNPAIRED_FRAME_BYTES: usize = 4 << 10;

type Transport<S, In, Out> =
    tokio_serde::Framed<Framed<S, LengthDelimitedCodec>, In, Out, Json<In, Out>>;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// A frame was longer than the limit.
    #[error("a frame is longer than the {limit} bytes allowed")]
    TooLong {
        /// The limit in force, in bytes.
        limit: usize,
    },
    /// A frame was cut short or could not be decoded.
    #[error("a frame does not decode: {0}")]
    Garbage(String),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

/// Frames that receive `In` and send `Out` over the byte stream `S`.
pub struct Frames<S, In, Out> {
    transport: Pin<Box<Transport<S, In, Out>>>,
    limit: usize,
}

impl<S, In, Out> Frames<S, In, Out>
where
    S: AsyncRead + AsyncWrite + Unpin,
    In: DeserializeOwned + Unpin,
    Out: Serialize + Unpin,
{
    /// Wraps `stream`; frames longer than `limit` bytes are refused before they are read.
    pub fn new(stream: S, limit: usize) -> Self {
        let codec = LengthDelimitedCodec::builder()
            .max_frame_length(limit)
            .new_codec();
        Frames {
            transport: Box::pin(tokio_serde::Framed::new(
                Framed::new(stream, codec),
                Json::default(),
            )),
            limit,
        }
    }

    /// Sends one message and flushes it.
    pub async fn send(&mut self, message: Out) -> Result<(), FrameError> {
        self.transport
            .send(message)
            .await
            .map_err(|e| self.classify(e))
    }

    /// Receives the next message. Cancel safe: a dropped call loses no bytes.
    pub async fn receive(&mut self) -> Result<In, FrameError> {
        match self.transport.next().await {
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) => Err(self.classify(error)),
            None => Err(FrameError::Closed),
        }
    }

    fn classify(&self, error: io::Error) -> FrameError {
        match error.kind() {
            // serde_json reports syntax and data errors as InvalidData, and a document that ends
            // too early as UnexpectedEof. LengthDelimitedCodec also reports an oversized length as
            // InvalidData, with a source of its own type.
            io::ErrorKind::InvalidData
                if error
                    .get_ref()
                    .is_some_and(|e| e.is::<tokio_util::codec::LengthDelimitedCodecError>()) =>
            {
                FrameError::TooLong { limit: self.limit }
            }
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                FrameError::Garbage(error.to_string())
            }
            io::ErrorKind::Other if error.to_string().contains("bytes remaining on stream") => {
                FrameError::Garbage("the connection ended inside a frame".into())
            }
            _ => FrameError::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    type Pipe = Frames<tokio::io::DuplexStream, String, String>;

    fn pair(limit: usize) -> (Pipe, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        (Frames::new(ours, limit), theirs)
    }

    #[tokio::test]
    async fn a_message_arrives_as_sent() {
        let (mut a, theirs) = pair(1024);
        let mut b: Pipe = Frames::new(theirs, 1024);
        a.send("hello".to_owned()).await.unwrap();
        assert_eq!(b.receive().await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn an_oversized_length_is_refused_before_its_bytes_come() {
        let (mut a, mut raw) = pair(1024);
        raw.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        assert!(matches!(
            a.receive().await,
            Err(FrameError::TooLong { limit: 1024 })
        ));
    }

    #[tokio::test]
    async fn garbage_is_an_error() {
        let (mut a, mut raw) = pair(1024);
        raw.write_all(&[0, 0, 0, 4, b'{', 0xff, b'}', b'x'])
            .await
            .unwrap();
        assert!(matches!(a.receive().await, Err(FrameError::Garbage(_))));
    }

    #[tokio::test]
    async fn a_truncated_frame_is_an_error() {
        let (mut a, mut raw) = pair(1024);
        raw.write_all(&[0, 0, 0, 9, b'"']).await.unwrap();
        drop(raw);
        assert!(matches!(a.receive().await, Err(FrameError::Garbage(_))));
    }

    #[tokio::test]
    async fn a_close_between_frames_is_clean() {
        let (mut a, raw) = pair(1024);
        drop(raw);
        assert!(matches!(a.receive().await, Err(FrameError::Closed)));
    }
}
